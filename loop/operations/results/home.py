"""Results about a home: its state, its checks, the logs that were read and forgotten."""

from dataclasses import dataclass, field

from corpus.json_edge import ABSENT
from loop.operations.results.nights import NightResult
from loop.operations.results.readouts import PredictionCheck
from store.conversations.forget import Touched
from store.nights.results import ExplainedUpdate, HomeStatus, LogLine, WhyPair


@dataclass(frozen=True, kw_only=True)
class HomeMade:
    """A home after `init`."""

    home: str
    checkpoint: str
    """The active checkpoint."""
    turns: int


@dataclass(frozen=True, kw_only=True)
class ServiceStatus(HomeStatus):
    """The state of a home, as the service that holds it knows it."""

    next_update_reason: str | None
    """Why no update is due; None where one is."""


@dataclass(frozen=True, kw_only=True)
class _AtService:
    service: str
    """up, busy or down."""


@dataclass(frozen=True, kw_only=True)
class StatusReport(ServiceStatus, _AtService):
    """The state of a home, and whether a service holds it."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check of `doctor`."""

    check: str
    ok: bool
    found: str
    """The finding; of a check that failed, what to do."""


@dataclass(frozen=True, kw_only=True)
class DoctorReport:
    """Every check of a home."""

    home: str
    service: str
    """up or down."""
    checks: list[Check]


@dataclass(frozen=True, kw_only=True)
class DeclaredBehaviour:
    """A behaviour as its file declares it."""

    name: str
    counter_of: str | None
    condition: str
    do: str
    required_rate: float


@dataclass(frozen=True, kw_only=True)
class BehaviourList:
    """The behaviours of a home, each with its counter-behaviour after it."""

    behaviours: list[DeclaredBehaviour]


@dataclass(frozen=True, kw_only=True)
class ReadFile:
    """A log file that was read."""

    path: str
    format: str | None


@dataclass(frozen=True, kw_only=True)
class ConversationCount:
    """Conversations that were read."""

    new: int
    known: int


@dataclass(frozen=True, kw_only=True)
class SetAsideLine:
    """A line, or (line 0) a whole file, that gave no conversation."""

    path: str
    line: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Ingested:
    """The outcome of an `ingest`."""

    files: list[ReadFile]
    conversations: ConversationCount
    turns: int
    """Turns that are new."""
    forgotten: int
    """Conversations passed over because a user had them removed."""
    set_aside: list[SetAsideLine]
    waiting: list[str]
    """Files whose last line has no newline yet."""


@dataclass(frozen=True, kw_only=True)
class LogWithForgotten:
    """A log of the user's that still holds what was forgotten."""

    path: str
    lines: list[int]
    read: bool
    """Whether the file could be read; else the lines are those by which it was heard."""


@dataclass(frozen=True, kw_only=True)
class Pause:
    """Whether nights start by themselves."""

    paused: bool


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """What was forgotten, or would be."""

    source: str
    matched: str
    """What the name was understood as: source, conversation or log."""
    conversations: list[str]
    alike: list[str]
    """Conversations that begin with the same turns, and stay."""
    removed: dict[str, int]
    updates: list[Touched]
    """Updates whose weights learnt from it."""
    rollback_to: str | None
    rolled_back: bool
    commands: list[str]
    """How to have the weights without it."""
    files: list[LogWithForgotten]
    dry_run: bool
    wiped: bool | None = field(default=None, metadata=ABSENT)
    """Whether the ledger's file was written anew; a dry run has no such key."""
    night: NightResult | None = field(default=None, metadata=ABSENT)
    """Of `--retrain` alone."""


@dataclass(frozen=True, kw_only=True)
class UpdateOrigins:
    """An update with its pairs, the predictions of it, and the log lines that it grew from."""

    update: ExplainedUpdate
    pairs: list[WhyPair]
    predictions: list[PredictionCheck]
    log_lines: list[LogLine]
    """Each line once."""
