"""The first page of the shared weights, which tells every process their state, and the lock of the writer.

Invariant: `dirty` is set before the first write of an update, and cleared only when the weights are again
those of the active checkpoint. `version` grows with every change of the weights. `holds` names a checkpoint
only while all weights are that checkpoint's. At most one process writes: it holds the lock, which the kernel
releases when the process ends. This module knows nothing about tensors.
"""

import fcntl
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HEADER_BYTES = 4096
"""One page in front of the tensors."""
_MAGIC, _VERSION, _DIRTY = 0, 1, 2
"""Positions of the header's numbers, counted in words of 64 bits."""
_HOLDS = slice(64, 128)
"""Bytes of the checkpoint's id, which is padded with zeros."""
_MAGIC_NUMBER = 0x4E53_4D41_5050_0001


@dataclass(frozen=True, kw_only=True)
class WeightsState:
    """The header's content at one moment."""

    version: int
    """Number of changes since the shared weights were created."""
    dirty: bool
    """Whether the weights may differ from every kept checkpoint."""
    holds: str
    """Id of the checkpoint whose weights these are; "" during an update."""


class Header:
    """The header of the shared weights at `path`, read and written in place."""

    def __init__(self, path: Path) -> None:
        with open(path, "r+b") as stream:
            self._page = mmap.mmap(stream.fileno(), HEADER_BYTES)
        self._words = memoryview(self._page).cast("q")  # native words, so that no process sees half a number

    def mark_complete(self) -> None:
        """Mark the file as complete shared weights of Nightschool."""
        self._words[_MAGIC] = _MAGIC_NUMBER

    @property
    def complete(self) -> bool:
        """Whether the file is marked as complete shared weights."""
        return self._words[_MAGIC] == _MAGIC_NUMBER

    @property
    def state(self) -> WeightsState:
        """The header's current content."""
        return WeightsState(version=self.version, dirty=self.dirty, holds=self.holds)

    @property
    def version(self) -> int:
        """Number of changes since the shared weights were created."""
        return self._words[_VERSION]

    def bump(self) -> int:
        """Record a change of the weights; return the new version."""
        self._words[_VERSION] += 1
        return self.version

    @property
    def dirty(self) -> bool:
        """Whether the weights may differ from every kept checkpoint."""
        return bool(self._words[_DIRTY])

    @dirty.setter
    def dirty(self, value: bool) -> None:
        self._words[_DIRTY] = int(value)

    @property
    def holds(self) -> str:
        """Id of the checkpoint whose weights these are; "" during an update."""
        return self._page[_HOLDS].rstrip(b"\0").decode(errors="replace")  # another process may be writing it

    @holds.setter
    def holds(self, checkpoint_id: str) -> None:
        self._page[_HOLDS] = checkpoint_id.encode().ljust(64, b"\0")


def read_state(path: Path) -> WeightsState | None:
    """Return the state of the shared weights at `path`; None while there are no complete ones."""
    try:
        header = Header(path)
    except FileNotFoundError:
        return None
    return header.state if header.complete else None


@contextmanager
def writer_lock(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock of the only writer of the shared weights at `path`; yield whether it was acquired.

    The lock is on the file itself, so a new file at the same path has a lock of its own.

    Args:
        path: The file of the shared weights.
        wait: Whether to wait until the lock is free. Without it the block runs at once, and False is yielded
            if another process holds the lock.
    """
    with open(path, "rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(stream, fcntl.LOCK_UN)  # closing is not enough: a forked child may have the file open
