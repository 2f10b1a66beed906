"""What was read of the model's inner states, as rows: turns, attempts, the panel, and where an update moved
the weights.

Invariant: a row is written once; done again it is left alone. Scores are lists in the order of their vectors'
concepts, rounded to `DECIMALS`. Knows no model and no arithmetic but a mean and a spread.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, func, select

from store import queries
from store.ledger import schema
from store.ledger.records import insert_or_ignore
from store.ledger.rows import among, delete_among
from store.ledger.schema_readings import (
    attempt_readings,
    baselines,
    moves,
    panel_readings,
    turn_readings,
    vector_versions,
)

Floats = NDArray[Any]
DECIMALS = 4
"""Of a score: far below the spread of any concept, far above what a processor's last bits do."""
NEWEST = 4096
"""Turns that a baseline is over at most, the newest: what the model read of its users lately."""


@dataclass(frozen=True, kw_only=True)
class Heard:
    """A turn that may be read."""

    id: int
    position: int
    text: str
    read: bool
    """Whether it was read before."""


def rounded(scores: Floats) -> list[Any]:
    """Scores as they are kept."""
    kept: list[Any] = np.round(scores.astype(np.float64), DECIMALS).tolist()
    return kept


# ---------------------------------------------------------------- turns and attempts


def waiting(connection: Connection, cursor: int) -> dict[str, int]:
    """Conversations with turns up to this one that were never read, and how many, by id."""
    t, r = schema.turns, turn_readings
    query = (
        select(t.c.conversation_id, func.count(t.c.id))
        .where((t.c.id <= cursor) & (func.trim(t.c.text) != "") & t.c.id.not_in(select(r.c.turn_id)))
        .group_by(t.c.conversation_id)
        .order_by(t.c.conversation_id)
    )
    return {conversation_id: count for conversation_id, count in connection.execute(query)}


def heard(connection: Connection, conversation_ids: Iterable[str], cursor: int) -> dict[str, list[Heard]]:
    """The turns of these conversations up to this one, in order; without those that say nothing."""
    known = set(connection.execute(select(turn_readings.c.turn_id).distinct()).scalars())
    found: dict[str, list[Heard]] = {}
    rows = [
        row
        for row in among(connection, schema.turns, "conversation_id", conversation_ids)
        if row["id"] <= cursor
    ]
    for row in sorted(rows, key=lambda row: (str(row["conversation_id"]), int(row["position"]))):
        if row["text"].strip():
            turn = Heard(id=row["id"], position=row["position"], text=row["text"], read=row["id"] in known)
            found.setdefault(row["conversation_id"], []).append(turn)
    return found


def with_signals(connection: Connection) -> set[str]:
    """Conversations that carry a signal."""
    return set(connection.execute(select(schema.signals.c.conversation_id).distinct()).scalars())


def save_turns(connection: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add readings of turns: turn_id, vectors, weights_sha256, night_id, scores."""
    _save(connection, turn_readings, list(rows))


def save_attempts(connection: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add readings of attempts: attempt_id, vectors, weights_sha256, scores."""
    _save(connection, attempt_readings, list(rows))


def of_conversation(connection: Connection, conversation_id: str) -> list[queries.Row]:
    """The readings of a conversation's turns, in order: position, vectors, weights_sha256, scores by concept.

    A turn that was read with several versions of the vectors comes with the last of them.
    """
    t, r, v = schema.turns, turn_readings, vector_versions
    query = (
        select(t.c.position, r.c.vectors, r.c.weights_sha256, r.c.scores, v.c.concepts, v.c.layer)
        .join(r, r.c.turn_id == t.c.id)
        .join(v, v.c.digest == r.c.vectors)
        .where(t.c.conversation_id == conversation_id)
        .order_by(t.c.position, v.c.number)
    )
    found = {row["position"]: dict(row) for row in connection.execute(query).mappings()}
    for row in found.values():
        row["scores"] = dict(zip(row.pop("concepts"), row["scores"], strict=True))
    return [found[position] for position in sorted(found)]


def attempts_to_read(connection: Connection, night_id: str, most: int) -> list[queries.Row]:
    """A night's attempts that were not read yet, with their dreams' messages: the first by id, which draws evenly."""
    a, d, r = schema.attempts, schema.dreams, attempt_readings
    query = (
        select(a.c.id, a.c.text, d.c.messages)
        .join(d, d.c.id == a.c.dream_id)
        .outerjoin(r, r.c.attempt_id == a.c.id)
        .where((d.c.night_id == night_id) & r.c.attempt_id.is_(None))
        .order_by(a.c.id)
        .limit(most)
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def episodes(
    connection: Connection, conversation_ids: Iterable[str], vectors: str
) -> dict[str, tuple[dict[str, float], list[list[float]]]]:
    """The episodes of these conversations: each one's feelings, and the scores of its turns that were read.

    An episode's turns are the answer that it is about, and the turn that says something of it.
    """
    turns = {row["id"]: row for row in among(connection, schema.turns, "conversation_id", conversation_ids)}
    scores = {
        (turns[row["turn_id"]]["conversation_id"], turns[row["turn_id"]]["position"]): row["scores"]
        for row in among(connection, turn_readings, "turn_id", turns)
        if row["vectors"] == vectors
    }
    names = [
        f"{row['conversation_id']}:{row['position']}{end}" for row in turns.values() for end in ("", ":told")
    ]
    found = {}
    for node in among(connection, schema.nodes, "name", names):
        body = node["body"]
        places = (
            {body.get(key) for key in ("position", "answer_position")} if node["kind"] == "episode" else set()
        )
        read = [scores[place] for at in places if (place := (body["conversation_id"], at)) in scores]
        if read:
            found[node["id"]] = (node["feelings"], read)
    return found


def set_feelings(connection: Connection, node_id: str, feelings: Mapping[str, float]) -> None:
    """Give a node these feelings in the place of those that it has."""
    n = schema.nodes
    connection.execute(n.update().where(n.c.id == node_id).values(feelings=dict(feelings)))


# ---------------------------------------------------------------- what is usual


def base(connection: Connection, vectors: str, night_id: str) -> queries.Row | None:
    """Take the baseline: each concept's mean and spread over the turns read with these vectors, the newest `NEWEST`.

    Noted with the night; None where there is none to take.
    """
    r = turn_readings
    newest = select(r.c.scores).where(r.c.vectors == vectors).order_by(r.c.turn_id.desc()).limit(NEWEST)
    scores = np.array(list(connection.execute(newest).scalars()), dtype=np.float64)
    if not len(scores):
        return None
    row = {"vectors": vectors, "night_id": night_id, "turns": len(scores)}
    row |= {"mean": rounded(scores.mean(axis=0)), "spread": rounded(scores.std(axis=0))}
    _save(connection, baselines, [row])
    return row


def last_baseline(connection: Connection, vectors: str) -> queries.Row | None:
    """The baseline of these vectors that was taken last."""
    n, b = schema.nights, baselines
    query = (
        select(b)
        .join(n, n.c.id == b.c.night_id)
        .where(b.c.vectors == vectors)
        .order_by(n.c.number.desc())
        .limit(1)
    )
    row = connection.execute(query).mappings().first()
    return None if row is None else dict(row)


# ---------------------------------------------------------------- the panel, and where it moved


def save_panel(
    connection: Connection, weights_sha256: str, vectors: str, scores: Sequence[Sequence[float]]
) -> None:
    """Add the panel's scores, `(n_texts, n_concepts)`."""
    row = {"weights_sha256": weights_sha256, "vectors": vectors, "scores": scores}
    _save(connection, panel_readings, [row])


def panel(connection: Connection, weights_sha256: str, vectors: str) -> Floats | None:
    """The panel's scores on these weights, `(n_texts, n_concepts)`."""
    p = panel_readings
    mine = (p.c.weights_sha256 == weights_sha256) & (p.c.vectors == vectors)
    found = connection.execute(select(p.c.scores).where(mine)).scalar()
    return None if found is None else np.array(found, dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Moves:
    """Where an update changed the weights, against the readings that it moved."""

    update_id: str
    readings: dict[str, float]
    parts: dict[str, Any]
    verdict: str


def save_moves(connection: Connection, found: Moves) -> None:
    """Note where an update moved."""
    _save(connection, moves, [asdict(found)])


def moves_of(connection: Connection, update_id: str | None) -> dict[str, Any] | None:
    """Where an update moved, if that was looked at."""
    row = connection.execute(select(moves).where(moves.c.update_id == update_id)).mappings().first()
    return None if row is None else {key: row[key] for key in ("verdict", "readings", "parts")}


def forget(connection: Connection, turn_ids: Sequence[int], attempt_ids: Sequence[str]) -> None:
    """Remove what was read of these turns and attempts, and the baselines over them: the next night takes new ones."""
    touched = {row["vectors"] for row in among(connection, turn_readings, "turn_id", turn_ids)}
    delete_among(connection, turn_readings, "turn_id", turn_ids)
    delete_among(connection, attempt_readings, "attempt_id", attempt_ids)
    delete_among(connection, baselines, "vectors", sorted(touched))


def read_turns(connection: Connection) -> int:
    """How many turns were read."""
    return int(connection.execute(select(func.count(turn_readings.c.turn_id.distinct()))).scalar() or 0)


def _save(connection: Connection, table: Any, rows: list[Any]) -> None:
    if rows:
        connection.execute(insert_or_ignore(connection, table), rows)
