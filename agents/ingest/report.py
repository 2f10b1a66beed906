"""What an ingest did: values that add up.

Invariant: a report tells only what is committed, and every reason in it has been scrubbed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class FileRead:
    """One file that was looked at."""

    path: str
    format: str | None
    """Name of the reader; None where there was nothing to tell it from."""


@dataclass(frozen=True, kw_only=True)
class SetAside:
    """One line, or (line 0) one whole file, that gave nothing."""

    path: str
    line: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """What was read, and what was not."""

    files: tuple[FileRead, ...] = ()
    new: int = 0
    """Conversations that were never heard before."""
    known: int = 0
    """Conversations that were, whether they grew or not."""
    turns: int = 0
    """Turns added."""
    forgotten: int = 0
    """Conversations passed over, because a user had them removed."""
    set_aside: tuple[SetAside, ...] = ()
    waiting: tuple[str, ...] = ()
    """Files whose last line has no newline yet: it is read when the newline comes."""

    ids: frozenset[str] = frozenset()
    """The conversations that were met."""

    @property
    def partial(self) -> bool:
        """Whether something was set aside: exit code 3."""
        return bool(self.set_aside)

    def as_json(self) -> dict[str, Any]:
        """The object that `ingest --json` prints."""
        return {
            "files": [{"path": file.path, "format": file.format} for file in self.files],
            "conversations": {"new": self.new, "known": self.known},
            "turns": self.turns,
            "forgotten": self.forgotten,
            "set_aside": [{"path": s.path, "line": s.line, "reason": s.reason} for s in self.set_aside],
            "waiting": list(self.waiting),
        }


def merged(reports: Iterable[IngestReport]) -> IngestReport:
    """Reports as one; a file is named once, with the format that was found last."""
    files: dict[str, FileRead] = {}
    aside: dict[tuple[str, int], SetAside] = {}
    waiting: dict[str, None] = {}
    reports = list(reports)
    ids = frozenset().union(*(report.ids for report in reports))
    new = known = turns = forgotten = 0
    for report in reports:
        files.update((file.path, file) for file in report.files)
        aside.update(((line.path, line.line), line) for line in report.set_aside)
        waiting.update(dict.fromkeys(report.waiting))
        new, known, turns = new + report.new, known + report.known, turns + report.turns
        forgotten += report.forgotten
    return IngestReport(
        files=tuple(files.values()),
        new=new,
        known=known,
        turns=turns,
        forgotten=forgotten,
        set_aside=tuple(aside.values()),
        waiting=tuple(waiting),
        ids=ids,
    )
