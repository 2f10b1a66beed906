"""Sweeps and predictions in the ledger: what steering did to a behaviour, and what training did then.

A sweep is one concept at several strengths on a behaviour's held-out scenarios; a prediction is what the
sweep of a behaviour's own vector says that training will do.

Invariant: rows are only added. What training did is read from the updates that came after, never written
beside the prediction.
"""

from dataclasses import replace
from itertools import pairwise

from sqlalchemy import Connection, select

from store import queries
from store.ledger import schema
from store.ledger.records import extend, insert
from store.ledger.rows import all_of
from store.ledger.schema_readings import predictions, sweeps
from store.readings.records import JudgedAttempt, Prediction, PredictionOutcome, Sweep, TrainedUpdate


def add(connection: Connection, sweep: Sweep, prediction: Prediction | None = None) -> None:
    """Add a sweep and what it predicts; rows that are there already stay as they are."""
    insert(connection, sweeps, [sweep])
    insert(connection, predictions, [] if prediction is None else [prediction])


def attempts_of(connection: Connection, behaviour: str) -> list[JudgedAttempt]:
    """Return every judged attempt at this behaviour's dreams in use, by dream and id."""
    d, a = schema.dreams, schema.attempts
    query = (
        select(a.c.id, a.c.dream_id, a.c.text, a.c.passed, d.c.messages)
        .join(d, d.c.id == a.c.dream_id)
        .where((d.c.behaviour == behaviour) & d.c.refused.is_(None))
        .order_by(a.c.dream_id, a.c.id)
    )
    return all_of(connection, JudgedAttempt, query)


def predictions_of(connection: Connection, behaviour: str) -> list[PredictionOutcome]:
    """Return the behaviour's predictions, oldest first.

    Each comes with the updates that set out to train the behaviour after it and before the next one.
    """
    t = predictions
    rows = all_of(
        connection, Prediction, select(t).where(t.c.behaviour == behaviour).order_by(t.c.at, t.c.id)
    )
    trained = _trained(connection, behaviour)
    return [
        extend(
            PredictionOutcome,
            row,
            updates=[u for u in trained if u.at > row.at and (later is None or u.at <= later.at)],
        )
        for row, later in pairwise([*rows, None])
        if row is not None
    ]


def of_update(connection: Connection, update_id: str) -> list[PredictionOutcome]:
    """Return the predictions about the behaviours that this update set out to train.

    Each comes with this update alone.
    """
    u, n = schema.updates, schema.nights
    query = select(n.c.targets).join(u, u.c.night_id == n.c.id).where(u.c.id == update_id)
    rows = [
        row for name in connection.execute(query).scalar() or [] for row in predictions_of(connection, name)
    ]
    return [replace(row, updates=[mine]) for row in rows for mine in row.updates if mine.id == update_id]


def _trained(connection: Connection, behaviour: str) -> list[TrainedUpdate]:
    """Return the measured updates that set out to train this behaviour, oldest first."""
    u, n = schema.updates, schema.nights
    columns = (u.c.id, u.c.state, u.c.at, u.c.parent_id, u.c.checkpoint_id, n.c.targets, n.c.seed)
    query = select(*columns).join(n, n.c.id == u.c.night_id).order_by(u.c.at)
    return [
        TrainedUpdate(
            id=row.id,
            state=row.state,
            at=row.at,
            before=_outcomes(connection, row.parent_id, behaviour, row.seed),
            after=_outcomes(connection, row.checkpoint_id, behaviour, row.seed),
        )
        for row in connection.execute(query)
        if behaviour in row.targets and row.checkpoint_id
    ]


def _outcomes(connection: Connection, checkpoint_id: str, behaviour: str, seed: int) -> str:
    """Return the outcomes of the first round on these weights; "" if there is none."""
    m = schema.measurements
    weights = queries.checkpoint(connection, checkpoint_id).weights_sha256
    same = (
        (m.c.weights_sha256 == weights) & (m.c.behaviour == behaviour) & (m.c.seed == seed) & (m.c.round == 0)
    )
    return str(connection.execute(select(m.c.outcomes).where(same).limit(1)).scalar() or "")
