"""Results of readouts and of steering."""

from dataclasses import dataclass
from typing import Literal

from agents.readout.quality.page import WrittenReport
from store.nights.results import PassCount
from store.readings.records import ConversationReading


@dataclass(frozen=True, kw_only=True)
class LayerAccuracy:
    """The accuracy of the vectors of one layer."""

    layer: int
    depth: float
    """Relative depth of the layer, above 0 and up to 1."""
    accuracy: float
    """Share of held-out texts whose own concept scores highest."""


@dataclass(frozen=True, kw_only=True)
class TrainedVectors:
    """The concept vectors that `readout train` estimated."""

    concepts: list[str]
    corpus: str
    corpus_sha256: str
    method: str
    texts: int
    layers: list[LayerAccuracy]
    chance: float
    hidden_size: int
    model: str
    checkpoint: str
    weights_version: str
    directory: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class VectorQuality(WrittenReport):
    """The quality of the concept vectors on the weights of a checkpoint."""

    checkpoint: str


@dataclass(frozen=True, kw_only=True)
class UpdateDrift:
    """How far the readings moved in one update."""

    update: str
    night: str
    state: str
    vectors: str | None
    """Digest of the vectors; None, with no moves, if the two sides were not read with the same ones."""
    moves: dict[str, float]
    """By concept, in standard deviations over the probe set before the update."""
    joint: float | None
    """How far all readings moved together."""
    parts: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class VectorsDrift:
    """One version of the concept vectors, and its distance from the version before it."""

    number: int
    digest: str
    weights_sha256: str
    layer: int
    method: str | None
    night_id: str
    at: str
    cosines: dict[str, float] | None
    concepts: int
    mean_cosine: float | None
    furthest: str | None


@dataclass(frozen=True, kw_only=True)
class UsualReading:
    """Mean and standard deviation of a concept's readings over the turns of users."""

    mean: float
    spread: float


@dataclass(frozen=True, kw_only=True)
class UsualReadings:
    """The usual readings over the turns of users, by concept."""

    vectors: str
    night: str
    turns: int
    concepts: dict[str, UsualReading]


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How far updates moved the readings, and how far the vectors drifted."""

    updates: list[UpdateDrift]
    versions: list[VectorsDrift]
    baseline: UsualReadings | None
    turns_read: int
    attempts_read: int


@dataclass(frozen=True, kw_only=True)
class ReadingBaseline:
    """The texts, means and standard deviations that a conversation's readings are relative to."""

    texts: int
    mean: dict[str, float]
    spread: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class TurnReadings:
    """The readings at the end of one turn."""

    turn: int
    role: str
    text: str
    scores: dict[str, float]
    readings: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Readings:
    """The readings of a conversation, turn by turn."""

    layer: int
    concepts: list[str]
    weights_sha256: str
    window: int
    baseline: ReadingBaseline
    turns: list[TurnReadings]
    checkpoint: str
    named: bool
    """Whether the user named the concepts."""


@dataclass(frozen=True, kw_only=True)
class _AtConversation:
    conversation: str


@dataclass(frozen=True, kw_only=True)
class ConversationReadings(Readings, _AtConversation):
    """The readings of a named conversation, beside those of earlier nights."""

    as_heard: list[ConversationReading]
    """Readings that nights recorded of it."""
    written: str | None
    """File of the picture; None if none was drawn."""


@dataclass(frozen=True, kw_only=True)
class ConceptMap:
    """A drawn map of the concepts."""

    layer: int
    concepts: int
    written: str


@dataclass(frozen=True, kw_only=True)
class StrengthResult:
    """A behaviour's pass rate at one strength of steering."""

    strength: float
    passed: int
    trials: int
    low: float
    """Lower bound of the pass rate's 95 % interval; `high` is the upper bound."""
    high: float
    gained: int
    """Scenarios that failed at strength 0 and pass here."""
    lost: int
    p: float
    """p-value of the exact McNemar test against strength 0."""
    perplexity: float
    """On ordinary text, steered at this strength."""
    broken: bool
    """Whether this strength broke the model."""


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """The sweep of one concept on one behaviour."""

    id: str
    concept: str
    layer: int
    behaviour: str
    weights_sha256: str
    verdict: str
    slope: float
    reasons: list[str]
    strengths: list[StrengthResult]


@dataclass(frozen=True, kw_only=True)
class Sweeps:
    """The sweeps of one concept on several behaviours."""

    concept: str
    sweeps: list[SweepResult]


@dataclass(frozen=True, kw_only=True)
class UpdateOutcome:
    """An update that trained a predicted behaviour."""

    id: str
    state: str
    before: PassCount | None
    after: PassCount | None
    came_true: Literal["yes", "no", "open"]


@dataclass(frozen=True, kw_only=True)
class PredictionCheck:
    """A prediction, and the updates that trained the behaviour later."""

    id: str
    behaviour: str
    said: str
    """The predicted verdict."""
    reason: str
    sweep_id: str
    checkpoint_id: str
    at: str
    updates: list[UpdateOutcome]


@dataclass(frozen=True, kw_only=True)
class BehaviourVector:
    """A behaviour's own vector, and the effect of steering by it."""

    behaviour: str
    attempts: int
    dreams: int
    layer: int
    sweep: SweepResult
    prediction: str
    predictions: list[PredictionCheck]
