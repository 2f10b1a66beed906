"""The report of an ingest. Reports of batches and of files can be merged into one.

Invariant: a report is about committed data only, and secrets are removed from every reason in it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from corpus.aliases import Json


@dataclass(frozen=True, kw_only=True)
class FileRead:
    """One file that was read."""

    path: str
    format: str | None
    """Name of the file's format; None if no line shows a format yet."""
    encoding: str = "utf-8"
    """Encoding of the file's text."""
    compression: str | None = None
    """Name of the file's compression; None without one."""


@dataclass(frozen=True, kw_only=True)
class SkippedFile:
    """One file of a folder or of an archive that was not read."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class QuarantinedLine:
    """One line, or one whole file, that could not be read as a conversation."""

    path: str
    line: int
    """Number of the line; 0 for the whole file."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """The outcome of a whole ingest, of one file, or of one batch."""

    files: tuple[FileRead, ...] = ()
    new: int = 0
    """Number of conversations that are new to the ledger."""
    known: int = 0
    """Number of conversations that the ledger already had, with or without new turns."""
    turns: int = 0
    """Number of turns added."""
    forgotten: int = 0
    """Number of conversations skipped because a user had them forgotten."""
    quarantined: tuple[QuarantinedLine, ...] = ()
    waiting: tuple[str, ...] = ()
    """Paths of the files whose last line has no newline yet. The line is read once the newline is there."""

    skipped: tuple[SkippedFile, ...] = ()
    """Files of a folder or of an archive that were not read, because they are not named like a log."""
    ids: frozenset[str] = frozenset()
    """Ids of the conversations that were read, new and known."""

    @property
    def partial(self) -> bool:
        """Whether a line or a file was quarantined; the command then exits with code 3."""
        return bool(self.quarantined)

    def as_json(self) -> Json:
        """Return the object that `ingest --json` prints."""
        return {
            "files": [
                {
                    "path": file.path,
                    "format": file.format,
                    "encoding": file.encoding,
                    "compression": file.compression,
                }
                for file in self.files
            ],
            "conversations": {"new": self.new, "known": self.known},
            "turns": self.turns,
            "forgotten": self.forgotten,
            "set_aside": [
                {"path": line.path, "line": line.line, "reason": line.reason} for line in self.quarantined
            ],
            "waiting": list(self.waiting),
            "skipped": [{"path": file.path, "reason": file.reason} for file in self.skipped],
        }


def merged(reports: Iterable[IngestReport]) -> IngestReport:
    """Return one report that is the sum of these reports.

    A file is listed once, with the format that was detected last; a quarantined line, with its last reason.
    """
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
        skipped=tuple(dict.fromkeys(file for report in reports for file in report.skipped)),
        ids=frozenset().union(*(report.ids for report in reports)),
    )
