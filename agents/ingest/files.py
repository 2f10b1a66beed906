"""Log files on the disk: which there are below a path, how one is opened, and what tells it from another.

Invariant: nothing but a regular file is ever read, and opening never blocks, whatever lies there (a pipe
would wait for a writer). Links to folders are not followed, so there is no loop. Knows no format.
"""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from corpus.errors import LogRefused, UsageError
from corpus.scrub.patterns import scrub_name

SUFFIXES = (".jsonl", ".json")
"""What a log's name ends with in a folder; a file named by the user may have any name."""

HEAD = 2**16
"""Bytes of the beginning that tell a file from another."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A log file that is open for reading."""

    path: str
    """As it is stored and reported: without secrets, fit for a database."""
    stream: BinaryIO
    size: int
    """Bytes when it was opened: what comes later is read the next time."""
    head: bytes
    """The first bytes."""
    inode: str

    @property
    def identity(self) -> str:
        """Device, inode and the digest of the first line, as far as it is there."""
        first = self.head.partition(b"\n")[0]
        return f"{self.inode}:{digest(first)}"


def digest(data: bytes) -> str:
    """Sixteen hex characters that stand for these bytes."""
    return hashlib.sha256(data).hexdigest()[:16]


def stored_path(path: Path) -> str:
    """A path as the ledger and the reports name it: absolute, without secrets, in characters that can be stored."""
    return scrub_name(os.path.abspath(path))


def logs_at(path: Path) -> list[Path]:
    """The log files that a user means by a path, in the order of their names."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {told(error)}") from None
    if stat.S_ISREG(mode):
        if not os.access(path, os.R_OK):
            raise UsageError(f"{path} cannot be read: you have no permission")
        return [path]
    if not stat.S_ISDIR(mode):
        raise UsageError(f"{path} is {_kind(mode)}: give a log file or a folder of them")
    found = logs_below(path)
    if not found:
        raise UsageError(f"there is no log in {path}: no file below it ends in {' or '.join(SUFFIXES)}")
    return found


def logs_below(folder: Path) -> list[Path]:
    """Every file below a folder that is named like a log, and every folder that cannot be looked into."""
    closed: list[Path] = []
    found: list[Path] = []
    for place, _, names in os.walk(
        folder, onerror=lambda error: closed.append(Path(os.fsdecode(error.filename)))
    ):
        found += [Path(place, name) for name in names if name.endswith(SUFFIXES)]
    return sorted([*found, *closed])


def open_log(path: Path) -> Opened:
    """Open a log for reading; anything but a readable regular file is refused."""
    try:
        _regular(path.stat().st_mode)  # before it is opened: opening a device may already do something
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise LogRefused(f"cannot be read: {told(error)}") from None
    stream = os.fdopen(descriptor, "rb")
    try:
        found = os.fstat(descriptor)
        _regular(found.st_mode)  # and after, for what was put in its place meanwhile
        head = os.pread(descriptor, HEAD, 0)
    except (OSError, LogRefused) as error:
        stream.close()
        raise LogRefused(
            f"cannot be read: {told(error)}" if isinstance(error, OSError) else str(error)
        ) from None
    inode = f"{found.st_dev}:{found.st_ino}"
    return Opened(path=stored_path(path), stream=stream, size=found.st_size, head=head, inode=inode)


def _regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise LogRefused(f"it is {_kind(mode)}, not a file")


def _kind(mode: int) -> str:
    """What a thing that is no regular file is."""
    if stat.S_ISFIFO(mode):
        return "a pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a folder" if stat.S_ISDIR(mode) else "a device"


def told(error: OSError) -> str:
    """What the system said, without the path, which may hold a secret."""
    return (error.strerror or type(error).__name__).lower()
