"""Log files on the disk and the records in them.

Invariant: only regular files are read, and opening a path never blocks, whatever it names (a pipe, for
example, would wait for a writer). Links to folders are not followed, so a search for logs always ends. Every
reader of logs gets its records from `records` and its conversations from `parse`, so an ingest, a preview
(`peek`) and a `forget` see the same conversations. This module knows nothing about the ledger.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from corpus.conversation import Conversation
from corpus.errors import LogRefused, UsageError
from corpus.formats.detect import Reader
from corpus.lines import MAX_ARRAY, BadLine, RawLine, array_items, decode, is_array, whole_lines
from corpus.scrub.patterns import scrub_name

SUFFIXES = (".jsonl", ".json")
"""Suffixes of the logs in a folder. A file that the user names directly may have any name."""

HEAD = 2**16
"""Number of bytes that are read from the beginning of a file when it is opened."""

Record = RawLine | BadLine


@dataclass(frozen=True, kw_only=True)
class OpenLog:
    """A log file that is open for reading."""

    path: str
    """The path as it is stored and reported, see `stored_path`."""
    stream: BinaryIO
    size: int
    """Size in bytes when the file was opened. Bytes that are added later are read the next time."""
    head: bytes
    """The first HEAD bytes of the file."""
    inode: str
    """Device and inode numbers, as DEVICE:INODE."""

    @property
    def identity(self) -> str:
        """Device, inode and a digest of the first line, as far as it lies in `head`."""
        first = self.head.partition(b"\n")[0]
        return f"{self.inode}:{digest(first)}"


def digest(data: bytes) -> str:
    """Return the first sixteen hex characters of the SHA-256 digest of these bytes."""
    return hashlib.sha256(data).hexdigest()[:16]


def stored_path(path: Path) -> str:
    """Return the path as it is stored and reported: absolute, without secrets, in storable characters."""
    return scrub_name(os.path.abspath(path))


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
        raise UsageError(f"{path} is {_kind(mode)}: give a log file or a folder of them")
    logs = logs_below(path)
    if not logs:
        raise UsageError(f"there is no log in {path}: no file below it ends in {' or '.join(SUFFIXES)}")
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
        logs += [Path(parent, name) for name in names if name.endswith(SUFFIXES)]
    return sorted([*logs, *closed])


def open_log(path: Path) -> OpenLog:
    """Open a log and return it; anything but a readable regular file raises `LogRefused`."""
    try:
        _check_regular(path.stat().st_mode)  # before the open: opening a device may have an effect
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise LogRefused(unreadable(error)) from None
    stream = os.fdopen(descriptor, "rb")
    try:
        status = os.fstat(descriptor)
        _check_regular(status.st_mode)  # again: another file may be at the path by now
        head = os.pread(descriptor, HEAD, 0)
    except OSError as error:
        stream.close()
        raise LogRefused(unreadable(error)) from None
    except LogRefused:
        stream.close()
        raise
    inode = f"{status.st_dev}:{status.st_ino}"
    return OpenLog(path=stored_path(path), stream=stream, size=status.st_size, head=head, inode=inode)


def records(log: OpenLog) -> Iterator[Record]:
    """Return the records of a log: its complete lines or, if it is one JSON array, the items of the array."""
    if is_array(log.head):
        return array_items(read_array(log))
    return whole_lines(log.stream, until=log.size)


def read_array(log: OpenLog) -> bytes:
    """Return the bytes of a log that is one JSON array; more than MAX_ARRAY bytes raise `LogRefused`."""
    if log.size > MAX_ARRAY:
        raise LogRefused(
            f"a JSON array of more than {MAX_ARRAY // 2**20} MiB: write one object a line (jq -c '.[]' FILE)"
        )
    return log.stream.read(log.size)


def parse(record: Record, read: Reader) -> Conversation | BadLine | None:
    """Parse one record of a log with the reader of its format.

    Returns:
        The conversation, or the part of a conversation, in the record; None if the record holds none; a
        `BadLine` with the reason if the record is damaged.
    """
    if isinstance(record, BadLine):
        return record
    if record.blank:
        return None
    value = decode(record)
    return value if isinstance(value, BadLine) else read(value, record.number)


def unreadable(error: OSError) -> str:
    """Return why a file cannot be read, without the file's path, because a path may hold a secret."""
    return f"cannot be read: {(error.strerror or type(error).__name__).lower()}"


def _check_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise LogRefused(f"it is {_kind(mode)}, not a file")


def _kind(mode: int) -> str:
    """Return what a path names that is not a regular file, for example "a pipe", from its file mode."""
    if stat.S_ISFIFO(mode):
        return "a pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a folder" if stat.S_ISDIR(mode) else "a device"
