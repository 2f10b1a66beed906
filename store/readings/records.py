"""The records of what was read of the model's inner states, and of sweeps and predictions.

Invariant: as in `store.ledger.records`, a record's fields are its table's columns, as far as `TABLES` names
one (tested). Scores are lists in the order of the concepts of their vectors, rounded to four decimals.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table

from corpus.aliases import Json, Message
from store.ledger import schema_readings as schema

# ---------------------------------------------------------------- concept vectors


@dataclass(frozen=True, kw_only=True)
class VectorVersion:
    """One version of the concept vectors."""

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
    """float32 `(n_concepts, hidden_size)`; of the last version alone."""
    at: str


# ---------------------------------------------------------------- turns and attempts


@dataclass(frozen=True, kw_only=True)
class TurnReading:
    """The scores of one turn."""

    turn_id: int
    vectors: str
    weights_sha256: str
    night_id: str
    scores: list[float]


@dataclass(frozen=True, kw_only=True)
class AttemptReading:
    """The scores of one attempt."""

    attempt_id: str
    vectors: str
    weights_sha256: str
    scores: list[float]


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Each concept's mean score and standard deviation over the turns that were read with these vectors."""

    vectors: str
    night_id: str
    turns: int
    """How many it is over."""
    mean: list[float]
    spread: list[float]


@dataclass(frozen=True, kw_only=True)
class HeardTurn:
    """A turn that may be read."""

    id: int
    position: int
    text: str
    read: bool
    """Whether it was read before."""


@dataclass(frozen=True, kw_only=True)
class UnreadAttempt:
    """An attempt that was not read yet, with its dream's messages."""

    id: str
    text: str
    messages: list[Message]


@dataclass(frozen=True, kw_only=True)
class ConversationReading:
    """The reading of one turn of a conversation."""

    position: int
    vectors: str
    weights_sha256: str
    scores: dict[str, float]
    """By concept."""
    layer: int


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
    """Where an update changed the weights, against the readings that it moved."""

    verdict: str
    readings: dict[str, float]
    """Moves by concept, in standard deviations, of those that moved most."""
    parts: Json
    """How concentrated the change is, by layers, kinds, tensors and heads."""


@dataclass(frozen=True, kw_only=True)
class Moves(MovedReadings):
    """The same, with the update."""

    update_id: str


# ---------------------------------------------------------------- sweeps


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


@dataclass(frozen=True, kw_only=True)
class TrainedUpdate:
    """An update that set out to train a behaviour, with the outcomes of its first round on both sides."""

    id: str
    state: str
    at: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class PredictionOutcome(Prediction):
    """A prediction with the updates that came after it and before the next one."""

    updates: list[TrainedUpdate]


@dataclass(frozen=True, kw_only=True)
class JudgedAttempt:
    """An attempt with its verdict and its dream's messages."""

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
