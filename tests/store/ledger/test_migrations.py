"""A ledger of an older version is brought up to date, with its rows."""

from pathlib import Path

from night import a_dream, a_pair, a_trained_night, decide, new_ledger
from sqlalchemy import inspect, select

from corpus.conversation import Conversation, Turn
from store import proposals, queries
from store.conversations.conversations import add
from store.ledger import schema
from store.ledger.db import Ledger
from store.ledger.migrations import MIGRATIONS, _proposals_are_kept
from store.ledger.records import Attempt, Reading, save
from store.ledger.schema_proposals import PROPOSALS
from store.ledger.schema_readings import READINGS
from store.nights import history


def columns(ledger: Ledger) -> set[str]:
    """The columns of `pairs` in the database itself."""
    return {column["name"] for column in inspect(ledger.engine).get_columns("pairs")}


def test_a_ledger_of_the_first_schema_gets_the_version_of_its_references(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    with ledger.writing() as connection:
        night_id = history.begin_night(connection, seed=1, retry=False)
        save(connection, [a_pair("p1", night_id)])
        connection.execute(schema.pairs.update().values(chosen_logprob=-1.5))
        connection.exec_driver_sql("ALTER TABLE pairs DROP COLUMN reference_id")
        connection.execute(schema.meta.update().where(schema.meta.c.key == "schema").values(value="1"))
    ledger.close()
    assert "reference_id" not in columns(ledger)
    for _ in range(2):  # the second opening finds nothing left to do
        ledger = Ledger(ledger.url)
        assert columns(ledger) == {column.name for column in schema.pairs.columns}
        with ledger.reading() as connection:
            t = schema.pairs.c
            assert list(connection.execute(select(t.id, t.reference_id, t.chosen_logprob))) == [
                ("p1", None, -1.5)
            ]
            known = connection.execute(
                select(schema.meta.c.value).where(schema.meta.c.key == "schema")
            ).scalar()
        assert known == str(len(MIGRATIONS))
        ledger.close()


def test_a_ledger_from_before_pruning_gets_its_columns_and_keeps_its_checkpoints(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    with ledger.writing() as connection:
        before = connection.execute(select(schema.checkpoints.c.id)).scalars().all()
        for column in ("pinned", "pruned"):
            connection.exec_driver_sql(f"ALTER TABLE checkpoints DROP COLUMN {column}")
        connection.exec_driver_sql("DROP TABLE forgotten")
        connection.execute(schema.meta.update().where(schema.meta.c.key == "schema").values(value="2"))
    ledger.close()
    ledger = Ledger(ledger.url)
    with ledger.reading() as connection:
        t = schema.checkpoints.c
        assert (
            list(connection.execute(select(t.id, t.pinned, t.pruned)))
            == [(i, False, None) for i in before]
            != []
        )
        assert list(connection.execute(select(schema.forgotten))) == []
    ledger.close()


def test_a_ledger_from_before_proposals_gets_their_tables(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    with ledger.writing() as connection:
        for table in PROPOSALS:
            table.drop(connection)
        version = MIGRATIONS.index(_proposals_are_kept)
        connection.execute(
            schema.meta.update().where(schema.meta.c.key == "schema").values(value=str(version))
        )
    ledger.close()
    ledger = Ledger(ledger.url)
    with ledger.writing() as connection:
        proposals.add(connection, "no_emoji", "no_emoji", [("s1", {})])
        assert [(row.number, row.state) for row in proposals.rows(connection)] == [(1, "open")]
    ledger.close()


def test_attempts_from_before_placements_are_finished_and_were_told_nothing(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    with ledger.writing() as connection:
        night_id = history.begin_night(connection, seed=1, retry=False)
        attempt = Attempt(
            id="a1", dream_id="d1", text="Why?", instructed=False, temperature=1.0, seed=1, checkpoint_id="c",
            passed=True, reason="because", tokens=7, told="listen", placement="end",
        )  # fmt: skip
        save(connection, [a_dream("d1", night_id), attempt])
        for column in ("told", "placement", "tokens", "finished"):
            connection.exec_driver_sql(f"ALTER TABLE attempts DROP COLUMN {column}")
        connection.exec_driver_sql("DROP TABLE placement_trials")
        connection.execute(schema.meta.update().where(schema.meta.c.key == "schema").values(value="7"))
    ledger.close()
    ledger = Ledger(ledger.url)
    with ledger.reading() as connection:
        (row,) = queries.attempts(connection, ["d1"])["d1"]
        assert (row.told, row.placement, row.tokens, row.finished) == (None, None, 0, True)
        assert queries.placement_trials(connection, night_id) == []
    ledger.close()


def test_readings_from_before_they_named_their_vectors_are_kept_beside_new_ones(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    with ledger.writing() as connection:
        connection.exec_driver_sql("DROP TABLE readings")
        types = {"weights_sha256": "VARCHAR", "name": "VARCHAR", "mean": "FLOAT", "spread": "FLOAT"}
        columns = ", ".join(f"{column} {kind} NOT NULL" for column, kind in types.items())
        connection.exec_driver_sql(f"CREATE TABLE readings ({columns}, PRIMARY KEY (weights_sha256, name))")
        for row in (("w", "asking", 1.0, 0.5), ("w", "perplexity", 1.2, 0.0)):
            connection.exec_driver_sql("INSERT INTO readings VALUES (?, ?, ?, ?)", row)
        connection.execute(schema.meta.update().where(schema.meta.c.key == "schema").values(value="3"))
    ledger.close()
    ledger = Ledger(ledger.url)
    with ledger.writing() as connection:
        perplexity = Reading(weights_sha256="w", name="perplexity", vectors="", mean=1.2, spread=0.0)
        assert queries.readings(connection, "w") == {"perplexity": perplexity}
        save(connection, [Reading(weights_sha256="w", name="asking", vectors="v", mean=2.0, spread=0.5)])
        means = {name: row.mean for name, row in queries.readings(connection, "w", "v").items()}
        assert means == {"perplexity": 1.2, "asking": 2.0}
        assert queries.read_with(connection, "w") == {"v"}
        assert queries.read_with(connection, "w", "x") == set()
        assert len(connection.execute(select(schema.readings)).all()) == 3
    ledger.close()


def test_a_ledger_from_before_merges_has_no_unlearnt_pair(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    with ledger.writing() as connection:
        decide(connection, a_trained_night(connection, a_pair("p1", "?")), "keep")
        connection.exec_driver_sql("ALTER TABLE update_pairs DROP COLUMN unlearnt")
        connection.execute(schema.meta.update().where(schema.meta.c.key == "schema").values(value="3"))
    ledger.close()
    ledger = Ledger(ledger.url)
    with ledger.reading() as connection:
        t = schema.update_pairs.c
        assert list(connection.execute(select(t.pair_id, t.replay, t.unlearnt))) == [("p1", False, False)]
    ledger.close()


def test_a_ledger_from_before_the_monitor_gets_its_tables(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    with ledger.writing() as connection:
        for table in READINGS:
            table.drop(connection)
        connection.execute(schema.meta.update().where(schema.meta.c.key == "schema").values(value="4"))
    ledger.close()
    ledger = Ledger(ledger.url)
    with ledger.reading() as connection:
        assert [connection.execute(select(table)).all() for table in READINGS] == [[]] * len(READINGS)
    ledger.close()


def test_a_ledger_from_before_the_forms_of_dreams_gets_their_column(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    with ledger.writing() as connection:
        connection.exec_driver_sql("ALTER TABLE dreams DROP COLUMN form")
        connection.execute(schema.meta.update().where(schema.meta.c.key == "schema").values(value="7"))
    ledger.close()
    ledger = Ledger(ledger.url)
    with ledger.reading() as connection:
        assert connection.execute(select(schema.dreams.c.form)).all() == []
    ledger.close()


def test_a_ledger_from_before_tool_calls_had_structure_keeps_its_turns_and_pairs(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    talk = Conversation(source="a", format="openai", turns=(Turn(role="user", text="Hello", line=1),))
    with ledger.writing() as connection:
        night_id = history.begin_night(connection, seed=1, retry=False)
        save(connection, [a_pair("p1", night_id)])
        add(connection, talk, "/logs/a")
        for table, column in (
            ("turns", "structure"),
            ("turns", "tools"),
            ("dreams", "tools"),
            ("pairs", "tools"),
        ):
            connection.exec_driver_sql(f"ALTER TABLE {table} DROP COLUMN {column}")
        connection.execute(schema.meta.update().where(schema.meta.c.key == "schema").values(value="7"))
    ledger.close()
    ledger = Ledger(ledger.url)
    with ledger.writing() as connection:
        assert [pair.tools for pair in queries.pairs(connection, "new")] == [[]]
        assert add(connection, talk, "/logs/b").known
        (turn,) = queries.turns(connection, add(connection, talk, "/logs/b").conversation_id)
    assert (turn.text, turn.structure, turn.tools) == ("Hello", None, None)
    ledger.close()
