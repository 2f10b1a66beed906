"""Readings in the ledger: a row for each turn, their statistics, their episodes, and their removal."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from night import BASE, a_dream, a_lesson, a_trained_night, new_ledger
from sqlalchemy import Connection, func, select

from store import graph
from store.conversations.forget import forget
from store.graph import merge
from store.ledger.records import Attempt, extend, save
from store.ledger.schema_readings import attempt_readings, baselines, turn_readings, vector_versions
from store.nights import history
from store.readings import readings
from store.readings import vector_versions as versions
from store.readings.records import AttemptReading, MovedReadings, Moves, TurnReading
from store.readings.vector_versions import Version

TURNS = 6


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    ledger = new_ledger(tmp_path, turns=TURNS)
    with ledger.writing() as writing:
        history.begin_night(writing, seed=1, retry=False)
        yield writing
    ledger.close()


def version(
    digest: str, values: list[list[float]], concepts: tuple[str, ...] = ("calm", "cross"), layer: int = 2
) -> Version:
    return Version(
        digest=digest,
        weights_sha256="w",
        layer=layer,
        concepts=concepts,
        corpus_sha256="c",
        values=np.array(values),
    )


def a_reading(attempt_id: str) -> AttemptReading:
    return AttemptReading(attempt_id=attempt_id, vectors="v", weights_sha256="w", scores=[0.5])


def record_readings(connection: Connection, upto: int, night_id: str = "n1", vectors: str = "v") -> None:
    """Record the first turns, each with its number as both scores."""
    turns = readings.heard(connection, ["c1"], 10**9)["c1"]
    rows = [
        TurnReading(
            turn_id=turn.id,
            vectors=vectors,
            weights_sha256="w",
            night_id=night_id,
            scores=readings.rounded(np.array([turn.position, -turn.position])),
        )
        for turn in turns
        if not turn.read and turn.position < upto
    ]
    readings.save_turns(connection, rows)


def test_a_turn_is_one_row_with_its_scores_by_concept(
    connection: Connection,
) -> None:
    versions.meet(connection, version("v", [[1.0, 0.0], [0.0, 1.0]]), "n1")
    assert readings.waiting(connection, 10**9) == {"c1": TURNS}
    assert readings.waiting(connection, 2) == {"c1": 2}
    record_readings(connection, 4)
    record_readings(connection, 4)  # done again after a crash
    assert connection.execute(select(func.count()).select_from(turn_readings)).scalar() == 4
    assert readings.waiting(connection, 10**9) == {"c1": 2} and readings.read_turns(connection) == 4
    assert [turn.read for turn in readings.heard(connection, ["c1"], 10**9)["c1"]] == [True] * 4 + [False] * 2
    rows = readings.of_conversation(connection, "c1")
    assert [row.position for row in rows] == [0, 1, 2, 3]
    assert rows[3].scores == {"calm": 3.0, "cross": -3.0} and rows[3].layer == 2


def test_the_baseline_covers_all_turns_so_far_and_is_stored_with_the_night(connection: Connection) -> None:
    assert readings.take_baseline(connection, "v", "n1") is None
    record_readings(connection, 4)
    baseline = readings.take_baseline(connection, "v", "n1")
    assert baseline is not None and (baseline.turns, baseline.mean) == (4, [1.5, -1.5])
    assert baseline.spread == pytest.approx([np.arange(4).std()] * 2, abs=1e-4)
    assert (
        readings.last_baseline(connection, "v") == baseline
        and readings.last_baseline(connection, "other") is None
    )


def test_an_episodes_feelings_come_from_its_answer_and_the_turn_after_and_raise_its_rank(
    connection: Connection,
) -> None:
    merge(connection, a_lesson(1))  # type: ignore[arg-type]
    merge(connection, a_lesson(3))  # type: ignore[arg-type]
    record_readings(connection, TURNS)
    episodes = readings.episodes(connection, ["c1"], "v")
    assert episodes == {"e1": ({}, [[1.0, -1.0]]), "e3": ({}, [[3.0, -3.0]])}
    assert readings.episodes(connection, ["c1"], "other") == {}
    before = graph.episodes(connection, "listen")
    readings.set_feelings(connection, before[1].id, {"frustrated": 0.2, "read:calm": 0.8})
    after = graph.episodes(connection, "listen")
    assert [node.id for node in after] == [before[1].id, before[0].id]
    assert graph.priority(after[0]) == pytest.approx(1 + graph.READ_LIFT * 0.8)
    readings.set_feelings(connection, after[0].id, {"frustrated": 0.9, "read:calm": 1.0, "read:cross": 1.0})
    assert graph.priority(graph.episodes(connection, "listen")[0]) == pytest.approx(
        1.9
    )  # the stronger counts, once


def test_the_attempts_of_a_night_are_read_once_each(connection: Connection) -> None:
    save(connection, [a_dream("d1", "n1")])
    same = {"dream_id": "d1", "instructed": False, "temperature": 1.0, "seed": 1, "checkpoint_id": BASE}
    save(connection, [Attempt(id=f"a{n}", text=f"t{n}", passed=True, reason="", **same) for n in range(3)])  # type: ignore[arg-type]
    assert [row.id for row in readings.attempts_to_read(connection, "n1", 2)] == ["a0", "a1"]
    readings.save_attempts(connection, [a_reading("a0")])
    assert [row.id for row in readings.attempts_to_read(connection, "n1", 9)] == ["a1", "a2"]
    assert readings.attempts_to_read(connection, "n2", 9) == []


def test_readings_are_removed_with_what_is_forgotten(connection: Connection) -> None:
    record_readings(connection, TURNS)
    readings.take_baseline(connection, "v", "n1")
    history.close_night(connection, night_id="n1")
    save(connection, [a_dream("d1", "n1", source="anna")])
    same = {
        "instructed": False,
        "temperature": 1.0,
        "seed": 1,
        "checkpoint_id": BASE,
        "passed": True,
        "reason": "",
    }
    save(connection, [Attempt(id="a1", dream_id="d1", text="t", **same)])  # type: ignore[arg-type]
    readings.save_attempts(connection, [a_reading("a1")])
    forget(connection, "anna", "/x")
    for table in (turn_readings, attempt_readings, baselines):
        assert connection.execute(select(table)).all() == [], table.name


def test_vector_versions_are_stored_once_with_their_cosines_to_the_previous_version(
    connection: Connection,
) -> None:
    versions.meet(connection, version("one", [[1.0, 0.0], [0.0, 1.0]]), "n1")
    for _ in range(2):
        versions.meet(connection, version("two", [[3.0, 4.0], [0.0, -2.0]]), "n1")
    versions.meet(connection, version("three", [[1.0, 0.0]], ("cross",)), "n1")
    versions.meet(connection, version("four", [[1.0, 0.0]], ("cross",), layer=3), "n1")
    versions.meet(connection, version("five", [[1.0, 0.0, 0.0]], ("cross",), layer=3), "n1")
    cosines = [(row.digest, row.cosines) for row in versions.versions(connection)]
    two, three = {"calm": 0.6, "cross": -1.0}, {"cross": 0.0}
    assert cosines == [("one", None), ("two", two), ("three", three), ("four", None), ("five", None)]
    stored = connection.execute(
        select(vector_versions.c.digest).where(vector_versions.c.data.is_not(None))
    ).scalars()
    assert list(stored) == ["five"]


def test_the_probe_set_and_the_location_of_an_update_are_read_as_they_were_stored(
    connection: Connection,
) -> None:
    scores = np.array([[0.12345, 2.0], [-1.0, 0.0]])
    readings.save_panel(connection, "w", "v", readings.rounded(scores))
    panel = readings.panel(connection, "w", "v")
    assert (
        panel is not None
        and np.allclose(panel, scores, atol=1e-4)
        and readings.panel(connection, "w", "x") is None
    )
    history.close_night(connection, night_id="n1")
    update = a_trained_night(connection)
    moved = MovedReadings(verdict="local", readings={"calm": 0.5}, parts={"layers": {}})
    readings.save_moves(connection, extend(Moves, moved, update_id=update.id))
    assert readings.moves_of(connection, update.id) == moved
    assert readings.moves_of(connection, None) is None
