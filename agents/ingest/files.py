"""Log files on the disk: which files a path means, and which of them are no logs.

Invariant: links to folders are not followed, so a search for logs always ends. This module knows nothing
about log formats or the ledger.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from agents.ingest.sources import kind_of, stored_path, unreadable
from corpus.errors import UsageError

_TEXTS = (".jsonl", ".json", ".ndjson")
_PACKED = (".gz", ".zst", ".bz2", ".xz")

SUFFIXES = (
    *_TEXTS,
    *(text + packing for text in _TEXTS for packing in _PACKED),
    ".zip", ".af", ".db", ".sqlite", ".sqlite3", ".vscdb", ".aider.chat.history.md",
)  # fmt: skip
"""Suffixes of the logs in a folder. A file that the user names directly may have any name."""

_BESIDE = ("-wal", "-shm", "-journal")
"""Suffixes of the files that SQLite writes beside a database."""


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A file of a folder that was not read."""

    path: str
    reason: str


def logs_at(path: Path) -> list[Path]:
    """Return the log files that a user means by a path, sorted by name.

    If the path is a file, the result is this file; if it is a folder, every log below it. `UsageError` is
    raised if the path cannot be read, is neither a file nor a folder, or is a folder without a log.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UsageError(f"{path} {unreadable(error)}") from None
    if stat.S_ISREG(mode):
        if not os.access(path, os.R_OK):
            raise UsageError(f"{path} cannot be read: you have no permission")
        return [path]
    if not stat.S_ISDIR(mode):
        raise UsageError(f"{path} is {kind_of(mode)}: give a log file or a folder of them")
    logs = logs_below(path)
    if not logs:
        raise UsageError(f"there is no log in {path}: no file below it ends in {', '.join(SUFFIXES)}")
    return logs


def logs_below(folder: Path) -> list[Path]:
    """Return every file below a folder that is named like a log, sorted by name.

    Folders that cannot be read are in the list too, so that opening them reports the error.
    """
    closed: list[Path] = []
    logs: list[Path] = []
    for parent, _, names in os.walk(
        folder, onerror=lambda error: closed.append(Path(os.fsdecode(error.filename)))
    ):
        logs += [Path(parent, name) for name in names if is_log(name)]
    return sorted([*logs, *closed])


def is_log(name: str) -> bool:
    """Return whether a file in a folder is named like a log."""
    return name.lower().endswith(SUFFIXES)


def skipped_below(path: Path) -> list[Skipped]:
    """Return every file below a folder that is not named like a log, sorted by name; [] for a file."""
    found = [Path(parent, name) for parent, _, names in os.walk(path) for name in names if not is_log(name)]
    reason = "its name is not that of a log: give the file itself to read it"
    return [
        Skipped(path=stored_path(file), reason=reason)
        for file in sorted(found)
        if not file.name.endswith(_BESIDE)
    ]
