"""Readings of turns, attempts and the probe set as rows, and where an update moved the weights.

Invariant: a row is written once; a second write leaves it unchanged. Scores are lists in the order of the
concepts of their vectors, rounded to `DECIMALS`. This module knows nothing about models, and computes nothing
but means and standard deviations.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, func, select

from store.ledger import schema
from store.ledger.records import Node, StoredTurn, insert
from store.ledger.rows import all_of, among, delete_among, first_of
from store.ledger.schema_readings import (
    attempt_readings,
    baselines,
    moves,
    panel_readings,
    turn_readings,
    vector_versions,
)
from store.readings.records import (
    AttemptReading,
    Baseline,
    ConversationReading,
    HeardTurn,
    MovedReadings,
    Moves,
    PanelReading,
    TurnReading,
    UnreadAttempt,
)

Floats = NDArray[Any]
DECIMALS = 4
"""Decimals of a score: far finer than the standard deviation of any concept, and coarser than the differences
between processors."""
NEWEST = 4096
"""Most turns that a baseline is computed over: the newest ones."""


def rounded(scores: Floats) -> list[Any]:
    """Return scores as the ledger stores them: nested lists, rounded to `DECIMALS`."""
    lists: list[Any] = np.round(scores.astype(np.float64), DECIMALS).tolist()
    return lists


# ---------------------------------------------------------------- turns and attempts


def waiting(connection: Connection, cursor: int) -> dict[str, int]:
    """Return the number of turns up to the cursor that were never read, by the conversation's id."""
    t, r = schema.turns, turn_readings
    query = (
        select(t.c.conversation_id, func.count(t.c.id))
        .where((t.c.id <= cursor) & (func.trim(t.c.text) != "") & t.c.id.not_in(select(r.c.turn_id)))
        .group_by(t.c.conversation_id)
        .order_by(t.c.conversation_id)
    )
    return {conversation_id: count for conversation_id, count in connection.execute(query)}


def heard(connection: Connection, conversation_ids: Iterable[str], cursor: int) -> dict[str, list[HeardTurn]]:
    """Return the turns of these conversations up to the cursor, in order, by the conversation's id.

    Turns without text are left out.
    """
    known = set(connection.execute(select(turn_readings.c.turn_id).distinct()).scalars())
    rows = among(connection, StoredTurn, schema.turns, "conversation_id", conversation_ids)
    turns: dict[str, list[HeardTurn]] = {}
    for row in sorted(rows, key=lambda row: (row.conversation_id, row.position)):
        if row.id <= cursor and row.text.strip():
            turn = HeardTurn(id=row.id, position=row.position, text=row.text, read=row.id in known)
            turns.setdefault(row.conversation_id, []).append(turn)
    return turns


def with_signals(connection: Connection) -> set[str]:
    """Return the ids of the conversations that carry a signal."""
    return set(connection.execute(select(schema.signals.c.conversation_id).distinct()).scalars())


def save_turns(connection: Connection, rows: Iterable[TurnReading]) -> None:
    """Add readings of turns."""
    insert(connection, turn_readings, rows)


def save_attempts(connection: Connection, rows: Iterable[AttemptReading]) -> None:
    """Add readings of attempts."""
    insert(connection, attempt_readings, rows)


def of_conversation(connection: Connection, conversation_id: str) -> list[ConversationReading]:
    """Return the readings of a conversation's turns, in order, one for each turn that was read.

    If a turn was read with several versions of the vectors, the reading with the last version is returned.
    """
    t, r, v = schema.turns, turn_readings, vector_versions
    query = (
        select(t.c.position, r.c.vectors, r.c.weights_sha256, r.c.scores, v.c.concepts, v.c.layer)
        .join(r, r.c.turn_id == t.c.id)
        .join(v, v.c.digest == r.c.vectors)
        .where(t.c.conversation_id == conversation_id)
        .order_by(t.c.position, v.c.number)
    )
    last = {row.position: row for row in connection.execute(query)}
    return [
        ConversationReading(
            position=position,
            vectors=row.vectors,
            weights_sha256=row.weights_sha256,
            layer=row.layer,
            scores=dict(zip(row.concepts, row.scores, strict=True)),
        )
        for position, row in sorted(last.items())
    ]


def attempts_to_read(connection: Connection, night_id: str, most: int) -> list[UnreadAttempt]:
    """Return up to `most` attempts of a night that were not read yet.

    They are the first by id. Ids are digests, so this is an even sample of the attempts.
    """
    a, d, r = schema.attempts, schema.dreams, attempt_readings
    query = (
        select(a.c.id, a.c.text, d.c.messages)
        .join(d, d.c.id == a.c.dream_id)
        .outerjoin(r, r.c.attempt_id == a.c.id)
        .where((d.c.night_id == night_id) & r.c.attempt_id.is_(None))
        .order_by(a.c.id)
        .limit(most)
    )
    return all_of(connection, UnreadAttempt, query)


def episodes(
    connection: Connection, conversation_ids: Iterable[str], vectors: str
) -> dict[str, tuple[dict[str, float], list[list[float]]]]:
    """Return the feelings and the scores of the episodes of these conversations, by the episode's id.

    The scores are lists, one for each turn of the episode that was read: the answer that the episode is
    about, and the turn that comments on this answer. An episode without a reading is left out.

    Args:
        connection: The ledger.
        conversation_ids: The conversations.
        vectors: Digest of the concept vectors that the turns were read with.
    """
    rows = among(connection, StoredTurn, schema.turns, "conversation_id", conversation_ids)
    places = {row.id: (row.conversation_id, row.position) for row in rows}
    scores = {
        places[reading.turn_id]: reading.scores
        for reading in among(connection, TurnReading, turn_readings, "turn_id", places)
        if reading.vectors == vectors
    }
    names = [
        f"{conversation}:{position}{end}"
        for conversation, position in places.values()
        for end in ("", ":told")
    ]
    read: dict[str, tuple[dict[str, float], list[list[float]]]] = {}
    for node in among(connection, Node, schema.nodes, "name", names):
        if node.kind != "episode":
            continue
        of = node.body["conversation_id"]
        positions: set[Any] = {node.body.get(key) for key in ("position", "answer_position")}
        if found := [scores[of, position] for position in positions if (of, position) in scores]:
            read[node.id] = (node.feelings, found)
    return read


def set_feelings(connection: Connection, node_id: str, feelings: Mapping[str, float]) -> None:
    """Replace the feelings of a node."""
    n = schema.nodes
    connection.execute(n.update().where(n.c.id == node_id).values(feelings=dict(feelings)))


def read_turns(connection: Connection) -> int:
    """Return the number of turns that were read."""
    return int(connection.execute(select(func.count(turn_readings.c.turn_id.distinct()))).scalar() or 0)


# ---------------------------------------------------------------- what is usual


def take_baseline(connection: Connection, vectors: str, night_id: str) -> Baseline | None:
    """Compute the baseline of these vectors, store it for a night and return it.

    It is over the newest turns that were read with the vectors.

    Returns:
        None if no turn was read with the vectors.
    """
    r = turn_readings
    newest = select(r.c.scores).where(r.c.vectors == vectors).order_by(r.c.turn_id.desc()).limit(NEWEST)
    scores = np.array(list(connection.execute(newest).scalars()), dtype=np.float64)
    if not len(scores):
        return None
    baseline = Baseline(
        vectors=vectors,
        night_id=night_id,
        turns=len(scores),
        mean=rounded(scores.mean(axis=0)),
        spread=rounded(scores.std(axis=0)),
    )
    insert(connection, baselines, [baseline])
    return baseline


def last_baseline(connection: Connection, vectors: str) -> Baseline | None:
    """Return the newest baseline of these vectors; None if there is none."""
    n, b = schema.nights, baselines
    query = select(b).join(n, n.c.id == b.c.night_id).where(b.c.vectors == vectors)
    return first_of(connection, Baseline, query.order_by(n.c.number.desc()).limit(1))


# ---------------------------------------------------------------- the probe set, and where it moved


def save_panel(connection: Connection, weights_sha256: str, vectors: str, scores: list[list[float]]) -> None:
    """Store the probe set's scores on these weights, `(n_texts, n_concepts)`."""
    reading = PanelReading(weights_sha256=weights_sha256, vectors=vectors, scores=scores)
    insert(connection, panel_readings, [reading])


def panel(connection: Connection, weights_sha256: str, vectors: str) -> Floats | None:
    """Return the probe set's scores on these weights, `(n_texts, n_concepts)`; None if it was not read."""
    p = panel_readings
    mine = (p.c.weights_sha256 == weights_sha256) & (p.c.vectors == vectors)
    scores = connection.execute(select(p.c.scores).where(mine)).scalar()
    return None if scores is None else np.array(scores, dtype=np.float64)


def save_moves(connection: Connection, found: Moves) -> None:
    """Store where an update changed the weights, and how it moved the readings."""
    insert(connection, moves, [found])


def moves_of(connection: Connection, update_id: str | None) -> MovedReadings | None:
    """Return where an update changed the weights and how it moved the readings; None if that is unknown."""
    query = select(moves.c.verdict, moves.c.readings, moves.c.parts).where(moves.c.update_id == update_id)
    return first_of(connection, MovedReadings, query)


def forget(connection: Connection, turn_ids: Sequence[int], attempt_ids: Sequence[str]) -> None:
    """Delete the readings of these turns and attempts, and the baselines that the turns are a part of.

    The next night computes new baselines.
    """
    touched = {row.vectors for row in among(connection, TurnReading, turn_readings, "turn_id", turn_ids)}
    delete_among(connection, turn_readings, "turn_id", turn_ids)
    delete_among(connection, attempt_readings, "attempt_id", attempt_ids)
    delete_among(connection, baselines, "vectors", touched)
