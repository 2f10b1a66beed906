"""The report of an ingest: values that add up.

Invariant: a report names only what is committed, and every reason in it is scrubbed.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from corpus.aliases import Json


@dataclass(frozen=True, kw_only=True)
class FileRead:
    """One file that was read or looked at."""

    path: str
    format: str | None
    """Name of the reader; None for a file without a line to detect the format from."""


@dataclass(frozen=True, kw_only=True)
class QuarantinedLine:
    """One line, or (line 0) one whole file, that gave no conversation."""

    path: str
    line: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """The outcome of an ingest, or of one batch of it."""

    files: tuple[FileRead, ...] = ()
    new: int = 0
    """Conversations that are new to the ledger."""
    known: int = 0
    """Conversations that the ledger had, whether they grew or not."""
    turns: int = 0
    """Turns added."""
    forgotten: int = 0
    """Conversations passed over because a user had them removed."""
    quarantined: tuple[QuarantinedLine, ...] = ()
    waiting: tuple[str, ...] = ()
    """Files whose last line has no newline yet; it is read when the newline comes."""

    ids: frozenset[str] = frozenset()
    """Ids of the conversations that were read, new and known."""

    @property
    def partial(self) -> bool:
        """Whether a line or a file was quarantined: exit code 3."""
        return bool(self.quarantined)

    def as_json(self) -> Json:
        """Return the object that `ingest --json` prints."""
        return {
            "files": [{"path": file.path, "format": file.format} for file in self.files],
            "conversations": {"new": self.new, "known": self.known},
            "turns": self.turns,
            "forgotten": self.forgotten,
            "set_aside": [
                {"path": line.path, "line": line.line, "reason": line.reason} for line in self.quarantined
            ],
            "waiting": list(self.waiting),
        }


def merged(reports: Iterable[IngestReport]) -> IngestReport:
    """Add reports up; a file is named once, with the format that was detected last."""
    reports = list(reports)
    files: dict[str, FileRead] = {}
    quarantined: dict[tuple[str, int], QuarantinedLine] = {}
    for report in reports:
        files.update((file.path, file) for file in report.files)
        quarantined.update(((line.path, line.line), line) for line in report.quarantined)
    return IngestReport(
        files=tuple(files.values()),
        new=sum(report.new for report in reports),
        known=sum(report.known for report in reports),
        turns=sum(report.turns for report in reports),
        forgotten=sum(report.forgotten for report in reports),
        quarantined=tuple(quarantined.values()),
        waiting=tuple(dict.fromkeys(path for report in reports for path in report.waiting)),
        ids=frozenset().union(*(report.ids for report in reports)),
    )
