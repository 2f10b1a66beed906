"""Sweeps and predictions in the ledger: what steering did to a behaviour, and what training did then.

A sweep is one concept at several strengths on a behaviour's held-out scenarios; a prediction is what the sweep of a
behaviour's own vector says that training will do. Invariant: rows are added only; what training did is read from the
updates that came after, never written beside the prediction.
"""

from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import JSON, Column, Connection, Float, ForeignKey, Integer, String, Table, Text, select

from store import queries
from store.ledger import schema

sweeps = Table(
    "sweeps",
    schema.metadata,
    Column("id", String, primary_key=True),
    Column("concept", String, nullable=False),
    Column("vectors", String, nullable=False),  # digest of the vectors
    Column("layer", Integer, nullable=False),
    Column("behaviour", String, nullable=False, index=True),
    Column("definition", String, nullable=False),  # as in `measurements`
    Column("weights_sha256", String, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("strengths", JSON, nullable=False),  # ascending, 0 among them
    Column("outcomes", JSON, nullable=False),  # by strength: one character a scenario, 1 passed, 0 failed
    Column("perplexities", JSON, nullable=False),  # by strength, on ordinary text
    Column("verdict", String, nullable=False),  # raises, lowers, no effect or unclear
    Column("slope", Float, nullable=False),  # of the pass rate, in each unit of strength
    Column("reasons", JSON, nullable=False),
    Column("at", String, nullable=False),
)

predictions = Table(
    "predictions",
    schema.metadata,
    Column("id", String, primary_key=True),
    Column("behaviour", String, nullable=False, index=True),
    Column("sweep_id", ForeignKey("sweeps.id"), nullable=False),
    Column("checkpoint_id", String, nullable=False),  # the active one
    Column("said", String, nullable=False),  # the sweep's verdict
    Column("reason", Text, nullable=False),
    Column("at", String, nullable=False),
)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One concept at several strengths on one behaviour."""

    id: str
    concept: str
    vectors: str
    layer: int
    behaviour: str
    definition: str
    weights_sha256: str
    seed: int
    strengths: list[float]
    outcomes: list[str]
    perplexities: list[float]
    verdict: str
    slope: float
    reasons: list[str]
    at: str


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a behaviour's own vector says of training it."""

    id: str
    behaviour: str
    sweep_id: str
    checkpoint_id: str
    said: str
    reason: str
    at: str


def add(connection: Connection, sweep: Sweep, prediction: Prediction | None = None) -> None:
    """Keep a sweep and what it predicts; one that is there already stays as it is."""
    for table, record in ((sweeps, sweep), (predictions, prediction)):
        if record is not None and _one(connection, table, record.id) is None:
            connection.execute(
                table.insert().values({f.name: getattr(record, f.name) for f in fields(record)})
            )


def _one(connection: Connection, table: Table, wanted: str) -> str | None:
    return connection.execute(select(table.c.id).where(table.c.id == wanted)).scalar()


def attempts_of(connection: Connection, behaviour: str) -> list[queries.Row]:
    """Every judged attempt at this behaviour's dreams, with the dream's messages, by dream and id."""
    d, a = schema.dreams, schema.attempts
    query = (
        select(a.c.id, a.c.dream_id, a.c.text, a.c.passed, d.c.messages)
        .join(d, d.c.id == a.c.dream_id)
        .where((d.c.behaviour == behaviour) & d.c.refused.is_(None))
        .order_by(a.c.dream_id, a.c.id)
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def foretold(connection: Connection, behaviour: str) -> list[dict[str, Any]]:
    """The behaviour's predictions, oldest first, each with the updates that set out to train it afterwards.

    A prediction is for the updates that came before the next one.
    """
    t = predictions
    rows = [dict(row) for row in connection.execute(select(t).where(t.c.behaviour == behaviour)).mappings()]
    rows.sort(key=lambda row: (row["at"], row["id"]))
    ends = [*(row["at"] for row in rows[1:]), None][: len(rows)]
    trained = _trained(connection, behaviour)
    for row, end in zip(rows, ends, strict=True):
        row["updates"] = [u for u in trained if u["at"] > row["at"] and (end is None or u["at"] <= end)]
    return rows


def of_update(connection: Connection, update_id: str) -> list[dict[str, Any]]:
    """What was predicted of the behaviours that this update set out to train, beside what it did to each."""
    u, n = schema.updates, schema.nights
    query = select(n.c.targets).join(u, u.c.night_id == n.c.id).where(u.c.id == update_id)
    rows = [row for name in connection.execute(query).scalar() or [] for row in foretold(connection, name)]
    mine = [{**row, "updates": [u for u in row["updates"] if u["id"] == update_id]} for row in rows]
    return [row for row in mine if row["updates"]]


def _trained(connection: Connection, behaviour: str) -> list[dict[str, Any]]:
    """The updates that set out to train this behaviour and were measured, oldest first, with its pass rates."""
    u, n = schema.updates, schema.nights
    query = (
        select(u, n.c.targets, n.c.seed.label("night_seed")).join(n, n.c.id == u.c.night_id).order_by(u.c.at)
    )
    found = []
    for row in connection.execute(query).mappings():
        if behaviour in row["targets"] and row["checkpoint_id"]:
            sides = [
                _outcomes(connection, checkpoint, behaviour, row["night_seed"])
                for checkpoint in (row["parent_id"], row["checkpoint_id"])
            ]
            told = {key: row[key] for key in ("id", "state", "at")}
            found.append({**told, "before": sides[0], "after": sides[1]})
    return found


def _outcomes(connection: Connection, checkpoint_id: str, behaviour: str, seed: int) -> str:
    """Outcomes of the first round that these weights were measured with; "" where they were not."""
    m = schema.measurements
    weights = queries.checkpoint(connection, checkpoint_id)["weights_sha256"]
    same = (
        (m.c.weights_sha256 == weights) & (m.c.behaviour == behaviour) & (m.c.seed == seed) & (m.c.round == 0)
    )
    return str(connection.execute(select(m.c.outcomes).where(same).limit(1)).scalar() or "")
