"""The records of readings of the model's inner states, and of sweeps and predictions.

Invariant: a record's fields are the columns of its table, if it has a table in `TABLES` (tested). Scores are
lists in the order of the concepts of their vectors, rounded to four decimals. `vectors` is always the digest
of the concept vectors that a reading was taken with.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table

from corpus.aliases import Json, Message
from store.ledger import schema_readings as schema

# ---------------------------------------------------------------- concept vectors


@dataclass(frozen=True, kw_only=True)
class VectorVersion:
    """One version of the concept vectors; `store.ledger.schema_readings` explains the fields."""

    digest: str
    number: int
    weights_sha256: str
    layer: int
    concepts: list[str]
    corpus_sha256: str
    method: str | None = None
    night_id: str
    cosines: dict[str, float] | None = None
    data: bytes | None = None
    """The vectors, float32 `(n_concepts, hidden_size)`; None except for the last version."""
    at: str


# ---------------------------------------------------------------- turns and attempts


@dataclass(frozen=True, kw_only=True)
class TurnReading:
    """The scores of one turn on all concepts."""

    turn_id: int
    vectors: str
    weights_sha256: str
    night_id: str
    scores: list[float]


@dataclass(frozen=True, kw_only=True)
class AttemptReading:
    """The scores of one attempt on all concepts."""

    attempt_id: str
    vectors: str
    weights_sha256: str
    scores: list[float]


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Mean and standard deviation of each concept's scores, over turns that were read with these vectors."""

    vectors: str
    night_id: str
    turns: int
    """Number of these turns."""
    mean: list[float]
    spread: list[float]


@dataclass(frozen=True, kw_only=True)
class HeardTurn:
    """A stored turn with a text, which may be read."""

    id: int
    position: int
    text: str
    read: bool
    """Whether the turn was read before."""


@dataclass(frozen=True, kw_only=True)
class UnreadAttempt:
    """An attempt that was not read yet, with its dream's messages."""

    id: str
    text: str
    messages: list[Message]


@dataclass(frozen=True, kw_only=True)
class ConversationReading:
    """The reading of one turn, with the turn's position in its conversation."""

    position: int
    vectors: str
    weights_sha256: str
    scores: dict[str, float]
    """The scores, by concept."""
    layer: int
    """The layer after which the turn was read."""


# ---------------------------------------------------------------- updates


@dataclass(frozen=True, kw_only=True)
class PanelReading:
    """The scores of the probe set's texts on one checkpoint's weights."""

    weights_sha256: str
    vectors: str
    scores: list[list[float]]
    """`(n_texts, n_concepts)`."""


@dataclass(frozen=True, kw_only=True)
class MovedReadings:
    """The readings that an update moved, and where it changed the weights."""

    verdict: str
    """`local`, `mixed` or `spread`, for the change of the weights; `unchanged` without one."""
    readings: dict[str, float]
    """The largest moves, by concept, in standard deviations."""
    parts: Json
    """The concentration of the change by layers, kinds, tensors and heads: see `store.tensors.localize`."""


@dataclass(frozen=True, kw_only=True)
class Moves(MovedReadings):
    """The moved readings of one update, with the update's id."""

    update_id: str


# ---------------------------------------------------------------- sweeps


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The effect on one behaviour of steering along one concept's vector at several strengths."""

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
    """A prediction of the effect of training a behaviour, made from a sweep of the behaviour's own vector."""

    id: str
    behaviour: str
    sweep_id: str
    checkpoint_id: str
    said: str
    """The verdict of the sweep."""
    reason: str
    at: str


@dataclass(frozen=True, kw_only=True)
class TrainedUpdate:
    """An update that was to train a behaviour, with the outcomes of one round before and after it."""

    id: str
    state: str
    at: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class PredictionOutcome(Prediction):
    """A prediction with the updates that came after it and before the behaviour's next prediction."""

    updates: list[TrainedUpdate]


@dataclass(frozen=True, kw_only=True)
class JudgedAttempt:
    """An attempt with its judgement and its dream's messages."""

    id: str
    dream_id: str
    text: str
    passed: bool
    messages: list[Message]


TABLES: dict[type[Any], Table] = {
    VectorVersion: schema.vector_versions,
    TurnReading: schema.turn_readings,
    AttemptReading: schema.attempt_readings,
    Baseline: schema.baselines,
    PanelReading: schema.panel_readings,
    Moves: schema.moves,
    Sweep: schema.sweeps,
    Prediction: schema.predictions,
}
