"""Results about concept vectors, readings and steering."""

from dataclasses import dataclass
from typing import Literal

from agents.readout.quality.page import WrittenReport
from store.nights.results import PassCount
from store.readings.records import ConversationReading


@dataclass(frozen=True, kw_only=True)
class LayerAccuracy:
    """The accuracy of one layer's concept vectors."""

    layer: int
    depth: float
    """Depth of the layer as a share of all layers, above 0 and up to 1."""
    accuracy: float
    """Share of the held-out texts on which the text's own concept has the highest score."""


@dataclass(frozen=True, kw_only=True)
class TrainedVectors:
    """The concept vectors that `readout train` estimated."""

    concepts: list[str]
    corpus: str
    corpus_sha256: str
    method: str
    texts: int
    """Number of texts."""
    layers: list[LayerAccuracy]
    chance: float
    """The accuracy that guessing would have."""
    hidden_size: int
    model: str
    checkpoint: str
    weights_version: str
    directory: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class VectorQuality(WrittenReport):
    """The quality of the concept vectors on the weights of the active checkpoint."""

    checkpoint: str


@dataclass(frozen=True, kw_only=True)
class UpdateDrift:
    """How far one update moved the readings."""

    update: str
    night: str
    state: str
    vectors: str | None
    """Digest of the vectors that read the weights before and after; None, with no moves, if none did."""
    moves: dict[str, float]
    """How far each reading moved, by concept, in standard deviations over the probe set before the update."""
    joint: float | None
    """How far all readings moved together, in standard deviations per concept; None if that is not known."""
    parts: dict[str, float]
    """Each concept's part of the squared joint distance, by concept."""


@dataclass(frozen=True, kw_only=True)
class VectorsDrift:
    """One version of the concept vectors, and its similarity with the version before it."""

    number: int
    digest: str
    weights_sha256: str
    layer: int
    method: str | None
    night_id: str
    at: str
    cosines: dict[str, float] | None
    """Cosine of each concept's vector with the one before; None if no version before can be compared."""
    concepts: int
    """Number of concepts."""
    mean_cosine: float | None
    """Mean of these cosines; None without cosines."""
    furthest: str | None
    """The concept with the smallest cosine; None without cosines."""


@dataclass(frozen=True, kw_only=True)
class UsualReading:
    """Mean and standard deviation of a concept's readings over the users' conversations."""

    mean: float
    spread: float
    """The standard deviation."""


@dataclass(frozen=True, kw_only=True)
class UsualReadings:
    """The usual readings over the users' conversations, by concept."""

    vectors: str
    """Digest of the vectors."""
    night: str
    """Id of the night that computed these figures."""
    turns: int
    """Number of turns that were read."""
    concepts: dict[str, UsualReading]


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How far updates moved the readings, and how far the concept vectors changed."""

    updates: list[UpdateDrift]
    versions: list[VectorsDrift]
    baseline: UsualReadings | None
    """The usual readings; None if no turns were read yet."""
    turns_read: int
    """Number of turns that nights have read."""
    attempts_read: int
    """Number of attempts that nights have read."""


@dataclass(frozen=True, kw_only=True)
class ReadingBaseline:
    """The means and standard deviations with which a conversation's readings are standardised."""

    texts: int
    """Number of texts from which they were computed."""
    mean: dict[str, float]
    """Mean score, by concept."""
    spread: dict[str, float]
    """Standard deviation of the scores, by concept."""


@dataclass(frozen=True, kw_only=True)
class TurnReadings:
    """The readings at the end of one turn."""

    turn: int
    """Number of the turn in the conversation."""
    role: str
    text: str
    scores: dict[str, float]
    """Score by concept."""
    readings: dict[str, float]
    """The scores in standard deviations from the baseline's mean, by concept."""


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
    """The readings of a named conversation, now and in earlier nights."""

    as_heard: list[ConversationReading]
    """The readings of this conversation that nights have recorded."""
    written: str | None
    """Path of the picture; None if none was drawn."""


@dataclass(frozen=True, kw_only=True)
class ConceptMap:
    """A map of the concepts that was drawn to a file."""

    layer: int
    concepts: int
    """Number of concepts on the map."""
    written: str
    """Path of the picture."""


@dataclass(frozen=True, kw_only=True)
class StrengthResult:
    """A behaviour's pass rate at one strength of steering."""

    strength: float
    passed: int
    trials: int
    low: float
    """Lower bound of the pass rate's 95 % interval."""
    high: float
    """Upper bound of the pass rate's 95 % interval."""
    gained: int
    """Number of scenarios that failed at strength 0 and passed at this strength."""
    lost: int
    """Number of scenarios that passed at strength 0 and failed at this strength."""
    p: float
    """p-value of the two-sided exact McNemar test against strength 0."""
    perplexity: float
    """Perplexity on ordinary text, steered at this strength."""
    broken: bool
    """Whether steering at this strength broke the model: ordinary text became much less likely."""


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """The sweep of one behaviour: its pass rates at several strengths of steering by one concept."""

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
    """The sweeps of several behaviours with the same concept."""

    concept: str
    sweeps: list[SweepResult]


@dataclass(frozen=True, kw_only=True)
class UpdateOutcome:
    """An update that trained a behaviour after the prediction."""

    id: str
    state: str
    before: PassCount | None
    """The behaviour's pass rate before the update; None if it was not measured."""
    after: PassCount | None
    """The behaviour's pass rate after the update; None if it was not measured."""
    came_true: Literal["yes", "no", "open"]
    """Whether the pass rate changed as predicted; "open" if it was not measured."""


@dataclass(frozen=True, kw_only=True)
class PredictionCheck:
    """A prediction for a behaviour, and the updates that trained the behaviour later."""

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
    """A behaviour's own vector, and the effect of steering by this vector."""

    behaviour: str
    attempts: int
    """Number of judged attempts from which the vector was estimated."""
    dreams: int
    """Number of dreams to which these attempts belong."""
    layer: int
    """The layer at which the model was steered."""
    sweep: SweepResult
    prediction: str
    """The predicted effect of training: the verdict of the sweep."""
    predictions: list[PredictionCheck]
    """All predictions for the behaviour so far, this one included."""
