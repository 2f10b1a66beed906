"""The records that `report` and `lineage` return.

Invariant: the fields of a record are the keys of its JSON (`corpus.json_edge`), which users' scripts read. So
a new field is a new key, and no field is renamed. This module holds values only, and runs no query.
"""

from dataclasses import dataclass, field

from corpus.aliases import Json, Message
from corpus.json_edge import ABSENT
from store.ledger.placement_trial import PlacementTrial
from store.ledger.records import Checkpoint
from store.nights.cost import NightTokens
from store.nights.influence import GrownWord, SourceShare
from store.readings.records import MovedReadings, PredictionOutcome
from store.task_vectors.merges import MergeSettings


@dataclass(frozen=True, kw_only=True)
class PassCount:
    """The number of scenarios that were tried (`trials`), and of those that were passed."""

    passed: int
    trials: int


@dataclass(frozen=True, kw_only=True)
class BeforeAfter:
    """One figure before and after an update; None for a side that was not measured."""

    before: float | None
    after: float | None


# ---------------------------------------------------------------- one night


@dataclass(frozen=True, kw_only=True)
class TrainedWith:
    """What the trainer chose, or was given, for an update."""

    lr: float
    """Peak learning rate."""
    first_share: float | None
    """Norm of a fresh optimizer's first step at this rate, as a share of the weights' norm, from which the
    rate was found; None for a rate that was given."""
    compute: str
    """Type in which matrices were multiplied: "weights" (that of the weights) or "bfloat16"."""


@dataclass(frozen=True, kw_only=True)
class UpdateSummary:
    """A summary of one update."""

    id: str
    objective: str
    steps: int
    pairs: int
    verdict: str
    """The decision on the update; before there is one, the update's state."""
    checkpoint: str | None
    reasons: list[str]
    recipe: MergeSettings | None = field(default=None, metadata=ABSENT)
    """The settings of a merge; None for another update."""
    chosen: TrainedWith | None = field(default=None, metadata=ABSENT)
    """None for a merge, and for an update that was not trained."""


@dataclass(frozen=True, kw_only=True)
class BehaviourRates:
    """The pass counts of one behaviour before and after an update; None for a side that was not measured."""

    name: str
    counter_of: str | None
    before: PassCount | None
    after: PassCount | None


@dataclass(frozen=True, kw_only=True)
class DreamForm:
    """The dreams of a night that the model wrote for one form of prompt."""

    form: str
    used: int
    refused: dict[str, int]
    """Number of refused dreams, by reason."""


@dataclass(frozen=True, kw_only=True)
class NightReport:
    """The report of one night: what it read, made and decided."""

    conversations: int
    """Number that is new since the night before, like `turns` and `signals`."""
    turns: int
    signals: int
    nodes: int
    """Number of nodes in the whole memory graph."""
    dreams: int
    pairs: int
    reasons: list[str]
    placements: list[PlacementTrial]
    updates: list[UpdateSummary]
    """The update of the night, if it has one."""
    behaviours: list[BehaviourRates]
    retention: BeforeAfter | None
    """Perplexity on held-out ordinary text; None without an update."""
    dream_forms: list[DreamForm]
    """What each form of prompt has yielded in this night."""
    tokens: NightTokens
    tokens_per_pair: float | None
    """Tokens generated for dreams and attempts, per pair; None for a night without pairs."""
    sources: list[SourceShare]
    """The sources of the update's new pairs, the largest first."""
    grown_words: list[GrownWord]
    """What held-out answers say more often since the update, beyond chance."""


# ---------------------------------------------------------------- the home


@dataclass(frozen=True, kw_only=True)
class FailedWork:
    """A piece of quarantined work."""

    kind: str
    subject: str
    error: str | None


@dataclass(frozen=True, kw_only=True)
class Quarantine:
    """The number of quarantined lines, and quarantined work."""

    lines: int
    work: list[FailedWork]
    """The newest pieces, the newest first."""


@dataclass(frozen=True, kw_only=True)
class LastUpdate(UpdateSummary):
    """A summary of the newest update, with its state."""

    state: str


@dataclass(frozen=True, kw_only=True)
class LastNight:
    """The newest night."""

    id: str
    state: str
    reasons: list[str]
    started: str
    finished: str | None


@dataclass(frozen=True, kw_only=True)
class HomeStatus:
    """The state of a home."""

    checkpoint: str
    weights_sha256: str
    weights_version: int
    """How often the active checkpoint has changed."""
    conversations: int
    turns: int
    queue: dict[str, int]
    """Number of pieces of work that are ready, by kind."""
    set_aside: Quarantine
    last_update: LastUpdate | None
    last_night: LastNight | None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The newest rows of one table."""

    columns: tuple[str, ...]
    rows: list[tuple[object, ...]]
    """The oldest of them first."""


# ---------------------------------------------------------------- why


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """A line of a log from which something was learnt."""

    path: str
    line: int
    kind: str
    source: str
    text: str


@dataclass(frozen=True, kw_only=True)
class SourceDream:
    """The dream from which a pair was made."""

    id: str
    behaviour: str
    temperature: float
    seed: int
    nodes: list[str]


@dataclass(frozen=True, kw_only=True)
class WhyPair:
    """One pair with its dream and the log lines behind it."""

    id: str
    behaviour: str
    state: str
    messages: list[Message]
    chosen: str
    rejected: str
    chosen_from: str
    rejected_from: str
    dream: SourceDream | None
    log_lines: list[LogLine]


@dataclass(frozen=True, kw_only=True)
class ExplainedUpdate(UpdateSummary):
    """A summary of an update, with its forgotten pairs and the readings that it moved."""

    forgotten: int
    """Number of its pairs that were deleted because a user has forgotten a conversation."""
    moves: MovedReadings | None
    abilities: BehaviourRates | None = field(default=None, metadata=ABSENT)
    """The abilities before and after the update; None for the shipped model, which has no such test."""


@dataclass(frozen=True, kw_only=True)
class WhyUpdate:
    """One update with its pairs and the log lines behind them."""

    update: ExplainedUpdate
    pairs: list[WhyPair]
    predictions: list[PredictionOutcome]
    log_lines: list[LogLine]
    """Each line once."""


# ---------------------------------------------------------------- checkpoints


@dataclass(frozen=True, kw_only=True)
class CheckpointListing:
    """One checkpoint in the list of all."""

    number: int
    id: str
    parent_id: str | None
    weights_sha256: str
    update_id: str | None
    state: str
    at: str
    pinned: bool
    pruned: str | None
    active: bool
    targets: list[str]
    """The behaviours that its night was to improve."""


@dataclass(frozen=True, kw_only=True)
class PairCount:
    """The numbers of new and of replayed pairs of one behaviour in an update."""

    name: str
    new: int
    replay: int


@dataclass(frozen=True, kw_only=True)
class UpdatePairs:
    """Ids of the new and of the replayed pairs of an update, and their numbers by behaviour."""

    new: list[str]
    replay: list[str]
    behaviours: list[PairCount]


@dataclass(frozen=True, kw_only=True)
class UpdateVerdict:
    """The verdict on an update."""

    decision: str
    reasons: list[str]
    tests: list[Json]
    at: str


@dataclass(frozen=True, kw_only=True)
class MakingUpdate:
    """The update that made a checkpoint."""

    id: str
    night_id: str
    objective: str
    settings: Json
    seed: int
    steps: int
    state: str
    reasons: list[str]
    at: str
    verdict: UpdateVerdict | None
    pairs: UpdatePairs


@dataclass(frozen=True, kw_only=True)
class MeasuredBehaviour:
    """One behaviour as it was measured on a checkpoint."""

    name: str
    counter_of: str | None = None
    """For a counter-behaviour, its behaviour; the ledger does not have it, so the caller fills it in."""
    current: bool
    """Whether the behaviour's definition is the same now as at the measurement."""
    passed: int
    trials: int


@dataclass(frozen=True, kw_only=True)
class MeanReading:
    """A concept's mean score on a checkpoint, or the perplexity."""

    name: str
    mean: float
    spread: float


@dataclass(frozen=True, kw_only=True)
class CheckpointDetails(Checkpoint):
    """Everything that the ledger has of one checkpoint."""

    active: bool
    children: list[str]
    targets: list[str]
    update: MakingUpdate | None
    behaviours: list[MeasuredBehaviour]
    readings: list[MeanReading]
