"""Results about a home: its state, its checks, what was read and what was forgotten."""

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
class ModelMade:
    """A model's directory that was made."""

    model: str
    """The directory."""
    source: str
    """The file that it was made from."""


@dataclass(frozen=True, kw_only=True)
class ServiceStatus(HomeStatus):
    """The state of a home, as its service reports it."""

    next_update_reason: str | None
    """Why no update is due; None if one is."""


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
    """The finding; if the check failed, also what to do."""


@dataclass(frozen=True, kw_only=True)
class DoctorReport:
    """All checks of a home."""

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
    """The behaviours of a home, each followed by its counter-behaviour."""

    behaviours: list[DeclaredBehaviour]


@dataclass(frozen=True, kw_only=True)
class ReadFile:
    """A log file that was read."""

    path: str
    format: str | None


@dataclass(frozen=True, kw_only=True)
class ConversationCount:
    """Numbers of conversations that were read."""

    new: int
    known: int


@dataclass(frozen=True, kw_only=True)
class SetAsideLine:
    """A line that gave no conversation; line 0 stands for a whole file."""

    path: str
    line: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Ingested:
    """The result of an `ingest`."""

    files: list[ReadFile]
    conversations: ConversationCount
    turns: int
    """Turns that are new."""
    forgotten: int
    """Conversations that were skipped because they had been forgotten."""
    set_aside: list[SetAsideLine]
    waiting: list[str]
    """Files whose last line has no newline yet."""


@dataclass(frozen=True, kw_only=True)
class LogWithForgotten:
    """A user's own log that still holds what was forgotten."""

    path: str
    lines: list[int]
    read: bool
    """Whether the file could be read now; if not, `lines` are those of the time when it was ingested."""


@dataclass(frozen=True, kw_only=True)
class Pause:
    """Whether nights on schedule are suspended."""

    paused: bool


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """The result of a `forget`, or of its dry run."""

    source: str
    matched: str
    """How the name was understood: source, conversation or log."""
    conversations: list[str]
    alike: list[str]
    """Conversations that begin with the same turns, and are not forgotten."""
    removed: dict[str, int]
    updates: list[Touched]
    """Updates whose weights learnt from what was forgotten."""
    rollback_to: str | None
    rolled_back: bool
    commands: list[str]
    """Commands that give weights which did not learn from it."""
    files: list[LogWithForgotten]
    dry_run: bool
    wiped: bool | None = field(default=None, metadata=ABSENT)
    """Whether the ledger's file was rewritten; absent from a dry run."""
    night: NightResult | None = field(default=None, metadata=ABSENT)
    """The night of `--retrain`; absent without it."""


@dataclass(frozen=True, kw_only=True)
class UpdateOrigins:
    """An update with its pairs, the predictions of it, and the log lines that it came from."""

    update: ExplainedUpdate
    pairs: list[WhyPair]
    predictions: list[PredictionCheck]
    log_lines: list[LogLine]
    """Each line once."""
