"""Sweeps and predictions in the ledger: the effect of steering on a behaviour, and of training after that.

A sweep measures a behaviour's held-out scenarios while the model is steered along a concept's vector at
several strengths. A prediction says what training the behaviour will do; it is made from a sweep of the
behaviour's own vector.

Invariant: rows are only added. The effect of training is read from the updates that came after a prediction;
it is never stored with the prediction.
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
    """Add a sweep and the prediction made from it, if there is one; existing rows stay unchanged."""
    insert(connection, sweeps, [sweep])
    insert(connection, predictions, [] if prediction is None else [prediction])


def attempts_of(connection: Connection, behaviour: str) -> list[JudgedAttempt]:
    """Return every attempt at this behaviour's dreams, sorted by dream and id, without refused dreams."""
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

    Each has the updates that were to train the behaviour, from after this prediction to the next one.
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
    """Return the last prediction for each behaviour that this update was to train, made before the update.

    Each prediction in the result lists this update alone, whatever other updates followed it.
    """
    u, n = schema.updates, schema.nights
    query = select(n.c.targets).join(u, u.c.night_id == n.c.id).where(u.c.id == update_id)
    rows = [
        row for name in connection.execute(query).scalar() or [] for row in predictions_of(connection, name)
    ]
    return [replace(row, updates=[mine]) for row in rows for mine in row.updates if mine.id == update_id]


def _trained(connection: Connection, behaviour: str) -> list[TrainedUpdate]:
    """Return the updates that were to train this behaviour and made a checkpoint, oldest first."""
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
    """Return the outcomes of a behaviour on a checkpoint, by one definition; "" if it was not measured."""
    m = schema.measurements
    weights = queries.checkpoint(connection, checkpoint_id).weights_sha256
    same = (m.c.weights_sha256 == weights) & (m.c.behaviour == behaviour) & (m.c.seed == seed)
    rows = connection.execute(select(m).where(same).order_by(m.c.definition, m.c.round)).all()
    return "".join(row.outcomes for row in rows if row.definition == rows[0].definition)
