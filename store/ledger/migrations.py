"""Numbered migrations, which bring a ledger to this version's schema when it is opened.

Invariant: a released migration is never edited; a new one is appended. In a new ledger `_first_schema` makes
all tables of today's schema, so the other migrations change nothing. A ledger of a newer version is refused.
"""

from collections.abc import Callable

from sqlalchemy import Connection, Engine, inspect, select

from corpus.errors import IntegrityFault
from store.ledger.schema import meta, metadata
from store.ledger.schema_proposals import PROPOSALS
from store.ledger.schema_readings import READINGS, predictions, sweeps


def _first_schema(connection: Connection) -> None:
    """Create every table of today's schema."""
    metadata.create_all(connection)


def _references_have_a_version(connection: Connection) -> None:
    """Add `pairs.reference_id`; log-probabilities of a row without this id are computed again."""
    if "reference_id" not in {column["name"] for column in inspect(connection).get_columns("pairs")}:
        connection.exec_driver_sql("ALTER TABLE pairs ADD COLUMN reference_id VARCHAR")


def _checkpoints_can_be_pruned(connection: Connection) -> None:
    """Add `checkpoints.pinned`, `checkpoints.pruned` and the table `forgotten`."""
    metadata.tables["forgotten"].create(connection, checkfirst=True)
    known = {column["name"] for column in inspect(connection).get_columns("checkpoints")}
    if "pinned" not in known:
        connection.exec_driver_sql("ALTER TABLE checkpoints ADD COLUMN pinned BOOLEAN DEFAULT false NOT NULL")
        connection.exec_driver_sql("ALTER TABLE checkpoints ADD COLUMN pruned VARCHAR")


def _readings_name_their_vectors(connection: Connection) -> None:
    """Add the column `readings.vectors` and make it a part of the key.

    It is "" in old rows, whose concepts are read again.
    """
    if "vectors" in {column["name"] for column in inspect(connection).get_columns("readings")}:
        return
    rows = (
        connection.exec_driver_sql("SELECT weights_sha256, name, mean, spread FROM readings").mappings().all()
    )
    connection.exec_driver_sql("DROP TABLE readings")  # databases differ in how they change a key
    metadata.tables["readings"].create(connection)
    if rows:
        connection.execute(metadata.tables["readings"].insert(), [{**row, "vectors": ""} for row in rows])


def _pairs_can_be_unlearnt(connection: Connection) -> None:
    """Add `update_pairs.unlearnt`."""
    if "unlearnt" not in {column["name"] for column in inspect(connection).get_columns("update_pairs")}:
        connection.exec_driver_sql(
            "ALTER TABLE update_pairs ADD COLUMN unlearnt BOOLEAN DEFAULT false NOT NULL"
        )


def _sweeps_are_kept(connection: Connection) -> None:
    """Add the tables `sweeps` and `predictions`."""
    for table in (sweeps, predictions):
        table.create(connection, checkfirst=True)


def _readings_are_kept(connection: Connection) -> None:
    """Add the tables of readings of turns, attempts and the probe set."""
    for table in READINGS:
        table.create(connection, checkfirst=True)


def _turns_have_structure(connection: Connection) -> None:
    """Add `turns.structure` and `turns.tools`, `dreams.tools` and `pairs.tools`; old rows have no tools."""
    if "structure" in {column["name"] for column in inspect(connection).get_columns("turns")}:
        return
    for column in ("structure", "tools"):
        connection.exec_driver_sql(f"ALTER TABLE turns ADD COLUMN {column} JSON")
    for table in ("dreams", "pairs"):
        connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN tools JSON DEFAULT '[]' NOT NULL")


def _dreams_name_their_form(connection: Connection) -> None:
    """Add `dreams.form`; old rows, whose form is "", count for none."""
    if "form" not in {column["name"] for column in inspect(connection).get_columns("dreams")}:
        connection.exec_driver_sql("ALTER TABLE dreams ADD COLUMN form VARCHAR DEFAULT '' NOT NULL")


def _attempts_name_their_placement(connection: Connection) -> None:
    """Add `attempts.told`, `placement`, `tokens` and `finished`, and the table `placement_trials`."""
    metadata.tables["placement_trials"].create(connection, checkfirst=True)
    known = {column["name"] for column in inspect(connection).get_columns("attempts")}
    if "told" not in known:
        connection.exec_driver_sql("ALTER TABLE attempts ADD COLUMN told VARCHAR")
        connection.exec_driver_sql("ALTER TABLE attempts ADD COLUMN placement VARCHAR")
        connection.exec_driver_sql("ALTER TABLE attempts ADD COLUMN tokens INTEGER DEFAULT 0 NOT NULL")
        connection.exec_driver_sql("ALTER TABLE attempts ADD COLUMN finished BOOLEAN DEFAULT true NOT NULL")


def _copies_are_recognised(connection: Connection) -> None:
    """Add `conversations.copied` and an index of `turns.key`."""
    if "copied" not in {column["name"] for column in inspect(connection).get_columns("conversations")}:
        connection.exec_driver_sql("ALTER TABLE conversations ADD COLUMN copied INTEGER DEFAULT 0 NOT NULL")
    connection.exec_driver_sql("CREATE INDEX IF NOT EXISTS turns_by_key ON turns (key)")


def _measurements_have_words(connection: Connection) -> None:
    """Add `measurements.words`; it is NULL in old rows, which are compared with nothing."""
    if "words" not in {column["name"] for column in inspect(connection).get_columns("measurements")}:
        connection.exec_driver_sql("ALTER TABLE measurements ADD COLUMN words JSON")


def _proposals_are_kept(connection: Connection) -> None:
    """Add the tables of proposed behaviours."""
    for table in PROPOSALS:
        table.create(connection, checkfirst=True)


def _signals_say_of_what(connection: Connection) -> None:
    """Add `signals.of` and `signals.found_by`; the rules found most older signals."""
    known = {column["name"] for column in inspect(connection).get_columns("signals")}
    if "found_by" not in known:
        connection.exec_driver_sql('ALTER TABLE signals ADD COLUMN "of" VARCHAR')
        connection.exec_driver_sql("ALTER TABLE signals ADD COLUMN found_by VARCHAR DEFAULT 'rules' NOT NULL")


MIGRATIONS: tuple[Callable[[Connection], None], ...] = (
    _first_schema,
    _references_have_a_version,
    _checkpoints_can_be_pruned,
    _readings_name_their_vectors,
    _pairs_can_be_unlearnt,
    _sweeps_are_kept,
    _readings_are_kept,
    _turns_have_structure,
    _dreams_name_their_form,
    _attempts_name_their_placement,
    _copies_are_recognised,
    _measurements_have_words,
    _proposals_are_kept,
    _signals_say_of_what,
)


def migrate(engine: Engine) -> None:
    """Run the migrations that have not run on this ledger, in one transaction.

    Raises:
        IntegrityFault: A newer version of Nightschool wrote the ledger.
    """
    with engine.connect() as connection:
        connection.info["readonly"] = True
        if _version(connection) == len(MIGRATIONS):
            return
    with engine.begin() as connection:
        version = _version(connection)
        if version > len(MIGRATIONS):
            raise IntegrityFault(
                f"this ledger has schema {version}, this Nightschool knows {len(MIGRATIONS)}: "
                "install the newer version that wrote it"
            )
        for migration in MIGRATIONS[version:]:
            migration(connection)
        connection.execute(meta.delete().where(meta.c.key == "schema"))
        connection.execute(meta.insert().values(key="schema", value=str(len(MIGRATIONS))))


def _version(connection: Connection) -> int:
    """Return the number of the last migration that ran; 0 for an empty database."""
    if not inspect(connection).has_table("meta"):
        return 0
    row = connection.execute(select(meta.c.value).where(meta.c.key == "schema")).first()
    return int(row[0]) if row else 0
