"""The ledger's audit finds every row that its own digests or the manifests contradict."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from night import new_ledger
from sqlalchemy import update

from corpus.conversation import Conversation, Turn
from corpus.errors import IntegrityFault
from store import queries
from store.checkpoints.store import Manifest
from store.conversations import conversations
from store.ledger import schema
from store.ledger.db import Ledger
from store.ledger.records import Attempt, Dream, Pair, identity, save
from store.nights import history
from store.nights.audit import audit

SAID = (("system", "Be kind."), ("user", "Wax the shelf."), ("assistant", "Done."), ("user", "Thanks."))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = new_ledger(tmp_path, turns=0)
    with ledger.writing() as connection:
        turns = tuple(Turn(role=role, text=text, line=1) for role, text in SAID)
        conversations.add(
            connection, Conversation(source="ada", format="openai", turns=turns), "/logs/a.jsonl"
        )
        night = history.begin_night(connection, seed=1, retry=False)
        active = queries.active(connection).id
        text = "Please wax the shelf."
        dream_id = "d" + identity(night, "decide", 5, text)
        messages = [{"role": "user", "content": text}]
        attempts = [
            Attempt(
                id="a" + identity(dream_id, instructed, 9, active, answer),
                dream_id=dream_id,
                text=answer,
                instructed=instructed,
                temperature=1.0,
                seed=9,
                checkpoint_id=active,
                passed=instructed,
                reason="",
            )
            for instructed, answer in ((False, "Maybe."), (True, "I waxed it."))
        ]
        dream = Dream(
            id=dream_id,
            night_id=night,
            behaviour="decide",
            messages=messages,
            temperature=1.0,
            seed=5,
            nodes=[],
            source="ada",
        )
        pair = Pair(
            id="p1",
            behaviour="decide",
            messages=messages,
            chosen=attempts[1].text,
            rejected=attempts[0].text,
            chosen_from=f"instructed:{attempts[1].id}",
            rejected_from=f"attempt:{attempts[0].id}",
            dream_id=dream_id,
            signal_id=None,
            source="ada",
            trust=1.0,
            checkpoint_id=active,
            state="new",
            night_id=night,
        )
        save(connection, [dream, *attempts, pair])
    return ledger


def manifest(weights: str, parent: str | None = None) -> Manifest:
    return Manifest(weights=weights, optimizer=None, parent=parent, fields={})


def audited(ledger: Ledger, *, chosen: bool = True) -> list[str]:
    with ledger.reading() as connection:
        manifests = {
            row.id: manifest(row.weights_sha256, row.parent_id) for row in queries.checkpoints(connection)
        }
        return audit(connection, manifests.__getitem__, lambda _: chosen)


def test_an_untouched_ledger_has_no_faults(ledger: Ledger) -> None:
    assert audited(ledger) == []


@pytest.mark.parametrize(
    ("table", "values", "problem"),
    [
        ("turns", {"text": "Wax the dog."}, "is not the one that was heard"),
        ("dreams", {"seed": 6}, "is not the one that was dreamt"),
        ("dreams", {"messages": [{"role": "user", "content": "?"}]}, "is not the one that was dreamt"),
        ("attempts", {"text": "No."}, "is not the one that was made"),
        ("pairs", {"chosen": "I did not."}, "has another chosen answer"),
        ("pairs", {"rejected": "I did."}, "has another rejected answer"),
    ],
)
def test_a_row_changed_outside_the_service_is_reported(
    ledger: Ledger, table: str, values: dict[str, Any], problem: str
) -> None:
    with ledger.writing() as connection:
        connection.execute(update(schema.metadata.tables[table]).values(values))
    assert any(problem in found for found in audited(ledger))
    if table != "pairs":
        assert not any(problem in found for found in audited(ledger, chosen=False))


def test_checkpoint_rows_are_compared_with_their_manifests(ledger: Ledger) -> None:
    with ledger.reading() as connection:
        active = queries.active(connection)
        (problem,) = audit(connection, lambda _: manifest("other"), lambda _: True)
        assert "differ in weights_sha256" in problem

        def lost(_: str) -> Manifest:
            raise IntegrityFault("is missing")

        assert audit(connection, lost, lambda _: True) == []  # it is told of with the files
    with ledger.writing() as connection:
        connection.execute(update(schema.checkpoints).values(pruned="2026"))
    assert audited(ledger) == [f"the active checkpoint {active.id[:12]} is pruned"]
    with ledger.writing() as connection:
        connection.execute(update(schema.checkpoints).values(pruned=None, parent_id="gone"))
    assert any("which is not in the ledger" in problem for problem in audited(ledger))


def test_a_row_whose_parent_is_missing_is_reported(ledger: Ledger, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection, connection:  # which asks for no keys
        connection.execute("DELETE FROM dreams")
    assert any("refers to a row of dreams that is not there" in problem for problem in audited(ledger))
