"""Results about a home: its state, its checks, its behaviours, and the reading and forgetting of logs."""

from dataclasses import dataclass, field

from corpus.json_edge import ABSENT
from loop.operations.results.nights import NightResult
from loop.operations.results.readouts import PredictionCheck
from loop.verdict.course import Course
from store.conversations.forget import Touched
from store.nights.results import ExplainedUpdate, HomeStatus, LogLine, WhyPair


@dataclass(frozen=True, kw_only=True)
class HomeMade:
    """The state of a home after `init`."""

    home: str
    """Folder of the home."""
    checkpoint: str
    """Id of the active checkpoint."""
    turns: int
    """Id of the newest turn in the ledger; 0 if there is none."""


@dataclass(frozen=True, kw_only=True)
class ModelMade:
    """A Hugging Face directory that was made from another file."""

    model: str
    """The directory."""
    source: str
    """The file from which the directory was made."""


@dataclass(frozen=True, kw_only=True)
class ServiceStatus(HomeStatus):
    """The state of a home, as its service reports it."""

    next_update_reason: str | None
    """The reason why no update is due; None if one is due."""
    problems: list[str]
    """What keeps the home from its nights or from being captured, and what to do; [] if nothing does."""


@dataclass(frozen=True, kw_only=True)
class _AtService:
    service: str
    """State of the service: up, busy or down."""


@dataclass(frozen=True, kw_only=True)
class StatusReport(ServiceStatus, _AtService):
    """The state of a home, and whether a service holds it."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of one check of `doctor`."""

    check: str
    """Name of the check."""
    ok: bool
    """Whether the check passed."""
    found: str
    """The finding; if the check failed, also what the user should do."""


@dataclass(frozen=True, kw_only=True)
class DoctorReport:
    """The results of all checks of a home."""

    home: str
    service: str
    """State of the service: up or down."""
    checks: list[Check]


@dataclass(frozen=True, kw_only=True)
class DeclaredBehaviour:
    """A behaviour as its file declares it."""

    name: str
    counter_of: str | None
    """The behaviour that this counter-behaviour guards; None for a behaviour."""
    condition: str
    """The situation in which the behaviour should show."""
    do: str
    """What the model should do in that situation."""
    required_rate: float
    """Share of the cases in which the behaviour should hold."""


@dataclass(frozen=True, kw_only=True)
class BehaviourList:
    """The behaviours of a home, each followed by its counter-behaviour."""

    behaviours: list[DeclaredBehaviour]


@dataclass(frozen=True, kw_only=True)
class ReadFile:
    """A log file that was read."""

    path: str
    format: str | None
    encoding: str
    """Encoding of the file's text."""
    compression: str | None
    """Name of the file's compression; None without one."""


@dataclass(frozen=True, kw_only=True)
class SkippedLog:
    """A file of a folder or of an archive that was not read."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ConversationCount:
    """Numbers of conversations that were read."""

    new: int
    """Number of conversations that the ledger did not have before."""
    known: int
    """Number of conversations that the ledger had already."""


@dataclass(frozen=True, kw_only=True)
class SetAsideLine:
    """A line of a log that was skipped, because it holds no conversation that can be read."""

    path: str
    line: int
    """Number of the line, from 1; 0 stands for the whole file."""
    reason: str
    """The reason for which it was skipped."""


@dataclass(frozen=True, kw_only=True)
class Ingested:
    """The result of an `ingest`."""

    files: list[ReadFile]
    conversations: ConversationCount
    turns: int
    """Number of new turns."""
    forgotten: int
    """Number of conversations that were skipped because the user has forgotten them before."""
    set_aside: list[SetAsideLine]
    waiting: list[str]
    """Paths of the files whose last line is unfinished; it is read once it ends with a newline."""
    skipped: list[SkippedLog]


@dataclass(frozen=True, kw_only=True)
class PreviewTurn:
    """A turn that an ingest would store."""

    role: str
    text: str
    at: str | None
    """When it was written, ISO 8601 in UTC; None if the log has no time."""
    rating: float | None
    edited: str | None
    line: int


@dataclass(frozen=True, kw_only=True)
class PreviewSignal:
    """A place in a conversation that would carry a lesson, found without the behaviours of a home."""

    kind: str
    position: int
    """Index of the user's turn, or of the answer with the rating or the edit."""
    about: int
    """Index of the answer that it is about."""
    strength: float
    of: str | None
    """What a correction is of: `behaviour` (how the assistant answers), `task` (what came out), or null."""
    found_by: str
    """The evidence that found it: `rules` in a preview."""
    because: list[str]
    """The words by which it was recognised."""


@dataclass(frozen=True, kw_only=True)
class PreviewConversation:
    """A conversation that an ingest would store."""

    source: str
    turns: list[PreviewTurn]
    signals: list[PreviewSignal]


@dataclass(frozen=True, kw_only=True)
class PreviewFile:
    """A log file with what an ingest would store of it."""

    path: str
    format: str | None
    encoding: str
    compression: str | None
    conversations: list[PreviewConversation]


@dataclass(frozen=True, kw_only=True)
class Previewed:
    """The result of `ingest --preview`."""

    files: list[PreviewFile]
    set_aside: list[SetAsideLine]
    skipped: list[SkippedLog]
    waiting: list[str]


@dataclass(frozen=True, kw_only=True)
class LineWithSecrets:
    """A line of a file from which secrets would be removed."""

    line: int
    """Number of the line, from 1."""
    secrets: dict[str, int]
    """Number of the secrets by kind."""


@dataclass(frozen=True, kw_only=True)
class ScrubCheck:
    """What would be removed from a file before it is stored."""

    file: str
    count: int
    """Number of lines of the file."""
    lines: list[LineWithSecrets]


@dataclass(frozen=True, kw_only=True)
class LogWithForgotten:
    """A user's own log that still holds forgotten conversations."""

    path: str
    lines: list[int]
    """Numbers of the lines that hold them."""
    read: bool
    """Whether the file could be read now; if not, `lines` are the numbers at the time of the ingest."""


@dataclass(frozen=True, kw_only=True)
class Pause:
    """The result of `pause` and `resume`: whether scheduled nights are suspended."""

    paused: bool


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """The result of a `forget`, or of its dry run."""

    source: str
    """The name that the user gave."""
    matched: str
    """The kind of thing that has this name: source, conversation or log."""
    conversations: list[str]
    """Ids of the forgotten conversations."""
    alike: list[str]
    """Ids of the conversations that begin with the same turns and are not forgotten."""
    removed: dict[str, int]
    """Number of removed rows by table, and the number of removed lines of captured logs."""
    updates: list[Touched]
    """Updates that learnt from the forgotten conversations."""
    rollback_to: str | None
    """Id of the last kept checkpoint from before these updates; None if there is nothing to roll back."""
    rolled_back: bool
    """Whether the weights were rolled back to that checkpoint."""
    commands: list[str]
    """Commands by which the user gets weights that did not learn from the forgotten conversations."""
    files: list[LogWithForgotten]
    """The user's own logs that still hold forgotten conversations."""
    dry_run: bool
    wiped: bool | None = field(default=None, metadata=ABSENT)
    """Whether the ledger's file was rewritten; the key is absent from a dry run."""
    night: NightResult | None = field(default=None, metadata=ABSENT)
    """The night of `--retrain`; the key is absent without that option."""


@dataclass(frozen=True, kw_only=True)
class UpdateOrigins:
    """An update with its pairs, the predictions for its behaviours, and the log lines that it came from."""

    update: ExplainedUpdate
    pairs: list[WhyPair]
    predictions: list[PredictionCheck]
    log_lines: list[LogLine]
    """The log lines of all pairs, each line once."""
    evidence: list[Course] | None = field(default=None, metadata=ABSENT)
    """The course of the verdict's evidence, by behaviour; None without a verdict that has it."""
