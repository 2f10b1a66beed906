"""What the reports of a home say: the results of `report` and `lineage`.

Invariant: a result's fields are the keys of its JSON (`corpus.json_edge`), which users and their scripts
know: a field that is added is a key that is added, and none is renamed. This module holds values only, and
knows nothing about the ledger.
"""

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from corpus.aliases import Json, Message
from corpus.json_edge import ABSENT
from store.ledger.records import Checkpoint
from store.readings.records import MovedReadings, PredictionOutcome
from store.task_vectors.merges import MergeSettings


@dataclass(frozen=True, kw_only=True)
class PassCount:
    """How many of some scenarios were passed."""

    passed: int
    trials: int


@dataclass(frozen=True, kw_only=True)
class BeforeAfter:
    """One figure on both sides of an update; None if it was not taken."""

    before: float | None
    after: float | None


# ---------------------------------------------------------------- one night


@dataclass(frozen=True, kw_only=True)
class UpdateSummary:
    """One update in a few words."""

    id: str
    objective: str
    steps: int
    pairs: int
    verdict: str
    """The decision; before there is one, the update's state."""
    checkpoint: str | None
    reasons: list[str]
    recipe: MergeSettings | None = field(default=None, metadata=ABSENT)
    """Of a merge alone."""


@dataclass(frozen=True, kw_only=True)
class BehaviourRates:
    """One behaviour's first round before and after an update; None if it was not measured."""

    name: str
    counter_of: str | None
    before: PassCount | None
    after: PassCount | None


@dataclass(frozen=True, kw_only=True)
class NightReport:
    """What one night heard, made and decided."""

    conversations: int
    """Heard since the night before, as are `turns` and `signals`."""
    turns: int
    signals: int
    nodes: int
    """Of the whole memory graph."""
    dreams: int
    pairs: int
    reasons: list[str]
    updates: list[UpdateSummary]
    """One at most."""
    behaviours: list[BehaviourRates]
    retention: BeforeAfter | None
    """Perplexity on held-out ordinary text."""


# ---------------------------------------------------------------- the home


@dataclass(frozen=True, kw_only=True)
class FailedWork:
    """A piece of work that is set aside."""

    kind: str
    subject: str
    error: str | None


@dataclass(frozen=True, kw_only=True)
class Quarantine:
    """Lines and work that could not be used."""

    lines: int
    work: list[FailedWork]
    """The newest first."""


@dataclass(frozen=True, kw_only=True)
class LastUpdate(UpdateSummary):
    """The newest update."""

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
    """Where a home stands."""

    checkpoint: str
    weights_sha256: str
    weights_version: int
    """How often the active checkpoint has changed."""
    conversations: int
    turns: int
    queue: dict[str, int]
    """Work that is ready, by kind."""
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
    """A line of a log that something was learnt from."""

    path: str
    line: int
    kind: str
    source: str
    text: str


@dataclass(frozen=True, kw_only=True)
class SourceDream:
    """The dream that a pair grew from."""

    id: str
    behaviour: str
    temperature: float
    seed: int
    nodes: list[str]


@dataclass(frozen=True, kw_only=True)
class WhyPair:
    """One pair with its dream and the lines behind it."""

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
    """An update, with what it has lost and where it moved the readings."""

    forgotten: int
    """Pairs that it was made of and that a user had removed."""
    moves: MovedReadings | None
    abilities: BehaviourRates | None = field(default=None, metadata=ABSENT)
    """Before and after, of a model that is not the shipped one."""


@dataclass(frozen=True, kw_only=True)
class WhyUpdate:
    """One update with its pairs and the lines behind them."""

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
    """Behaviours that its night meant to improve."""


@dataclass(frozen=True, kw_only=True)
class PairCount:
    """How many pairs of one behaviour an update was made of."""

    name: str
    new: int
    replay: int


@dataclass(frozen=True, kw_only=True)
class UpdatePairs:
    """Ids of the pairs that an update was made of, and their numbers by behaviour."""

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
    """The behaviour that it guards; the ledger does not know."""
    current: bool
    """Whether the behaviour is still defined as it was then."""
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


@dataclass(frozen=True, kw_only=True)
class ComparedCheckpoint:
    """One of two checkpoints that are compared."""

    id: str
    number: int
    state: str
    weights_sha256: str
    pruned: str | None
    at: str


@dataclass(frozen=True, kw_only=True)
class ComparedBehaviour:
    """One behaviour that was measured on both of two checkpoints."""

    name: str
    counter_of: str | None = None
    """The behaviour that it guards; the ledger does not know."""
    current: bool
    """Whether the behaviour is still defined as it was then."""
    same_scenarios: bool
    """Whether both sides are of the rounds that both have; else each side is of its own rounds."""
    before: PassCount
    after: PassCount
    gained: int | None
    """Scenarios that turned from failed to passed; None if they are not the same."""
    lost: int | None


@dataclass(frozen=True, kw_only=True)
class ReadingMove:
    """How far one reading moved between two checkpoints."""

    name: str
    before: float
    after: float
    move: float
    """In standard deviations of the first."""


@dataclass(frozen=True, kw_only=True)
class LineageStep:
    """One checkpoint on the way from one to another."""

    checkpoint: str
    number: int
    update: str | None
    objective: str | None
    targets: list[str]
    pairs: UpdatePairs | None
    moves: MovedReadings | None


@dataclass(frozen=True, kw_only=True)
class CheckpointDifference:
    """What the ledger has of the way from one checkpoint to another."""

    from_: Annotated[ComparedCheckpoint, Field(alias="from")]
    to: ComparedCheckpoint
    behaviours: list[ComparedBehaviour]
    readings: list[ReadingMove]
    """The furthest first."""
    perplexity: BeforeAfter
    common: str | None
    """The newest checkpoint that both grew from."""
    removed: list[LineageStep]
    """From there to the first, oldest first."""
    added: list[LineageStep]
    """From there to the second."""
