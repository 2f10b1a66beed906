"""Which turns a night reads: within its limits, signals first, and none when disabled."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from sqlalchemy import Connection

from corpus.conversation import Conversation, Turn
from loop.config import MonitorSettings
from loop.night.record_activations import RecordActivations, chosen_turns
from store import graph
from store.conversations import conversations
from store.ledger.db import Ledger, database_url, now
from store.ledger.records import Signal
from store.nights import history
from store.queue.work import Work
from store.readings import readings
from store.readings.records import TurnReading

TALKS, LENGTH = 40, 4


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(database_url(tmp_path))
    with opened.writing() as connection:
        history.add_base(connection, "base", "weights")
        for talk in range(TALKS):
            turns = tuple(
                Turn(role="user", text=f"talk {talk}, turn {turn}", line=1) for turn in range(LENGTH)
            )
            conversations.add(
                connection, Conversation(source="ada", format="openai", turns=turns), "/logs/a.jsonl"
            )
        history.begin_night(connection, seed=0, retry=False)
    yield opened
    opened.close()


def choose(connection: Connection, most: int, share: float = 1.0) -> tuple[list[str], int]:
    chosen, left = chosen_turns(connection, 10**9, most, share)
    return list(chosen), left


def test_conversations_with_a_signal_come_first_and_the_others_wait(ledger: Ledger) -> None:
    with ledger.writing() as connection:
        everyone, left = choose(connection, 10**6)
        assert len(everyone) == TALKS and left == 0
        last = max(everyone)
        signal = Signal(
            id="s", kind="correction", conversation_id=last, position=1, source="ada", behaviour=None,
            strength=1.0, state="noted", reason="", at=now(),
        )  # fmt: skip
        graph.merge(connection, [signal])
        some, left = choose(connection, 3 * LENGTH)
        assert some == sorted([*sorted(everyone)[:2], last]) and left == (TALKS - 3) * LENGTH
        assert choose(connection, 0) == ([], TALKS * LENGTH)
        readings.save_turns(
            connection,
            [
                TurnReading(turn_id=turn.id, vectors="v", weights_sha256="w", night_id="n1", scores=[0.0])
                for turns in readings.heard(connection, some, 10**9).values()
                for turn in turns
            ],
        )
        assert not set(choose(connection, 3 * LENGTH)[0]) & set(some)


def test_a_share_is_drawn_by_the_conversations_ids_and_is_the_same_every_night(ledger: Ledger) -> None:
    with ledger.reading() as connection:
        half, left = choose(connection, 10**6, 0.5)
        assert TALKS / 4 < len(half) < 3 * TALKS / 4 and left == 0
        assert choose(connection, 10**6, 0.5)[0] == half
        assert set(choose(connection, 10**6, 0.25)[0]) < set(half) and choose(connection, 10**6, 0.0)[0] == []


@pytest.mark.parametrize(
    ("enabled", "has_vectors", "reason"),
    [(False, True, "monitor.enabled is false"), (True, False, "there are no concept vectors yet")],
)
def test_nothing_is_read_when_disabled_or_without_training(
    ledger: Ledger, enabled: bool, has_vectors: bool, reason: str
) -> None:
    settings = SimpleNamespace(monitor=MonitorSettings(enabled=enabled))
    context: Any = SimpleNamespace(
        ledger=ledger, settings=settings, monitor=SimpleNamespace(has_vectors=has_vectors), trainer=None
    )
    item = Work(id=1, kind="listen", subject="turns", night_id="n1", attempts=0)
    outcome = anyio.run(RecordActivations(context).handle, item, None)
    assert outcome.facts["reason"].startswith(reason) and outcome.then is None
