"""The first page of the shared weights: their state, for every process that maps them, and the writer's lock.

Invariant: `dirty` is set before the first write of an update, and cleared only when the weights are again
those of the active checkpoint. `version` grows with every change of the weights. `holds` names a checkpoint
only while the weights are wholly that checkpoint's. At most one process writes: the kernel releases its lock
with it, however it ends. This module knows nothing about tensors.
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
"""Positions of the header's words (int64)."""
_HOLDS = slice(64, 128)
"""Bytes of the id of the checkpoint, padded with zeros."""
_MAGIC_NUMBER = 0x4E53_4D41_5050_0001


@dataclass(frozen=True, kw_only=True)
class WeightsState:
    """The header's content at one moment."""

    version: int
    """Number of changes since the shared weights were created."""
    dirty: bool
    """Whether the weights may be those of no kept checkpoint."""
    holds: str
    """Id of the checkpoint whose weights these are; "" in mid-update."""


class Header:
    """The header of the shared weights at `path`, read and written in place."""

    def __init__(self, path: Path) -> None:
        with open(path, "r+b") as stream:
            self._page = mmap.mmap(stream.fileno(), HEADER_BYTES)
        self._words = memoryview(self._page).cast("q")  # native words: each is read and written as a whole

    def mark_complete(self) -> None:
        """Mark the file as complete shared weights of Nightschool's."""
        self._words[_MAGIC] = _MAGIC_NUMBER

    @property
    def complete(self) -> bool:
        """Whether `mark_complete` was called."""
        return self._words[_MAGIC] == _MAGIC_NUMBER

    @property
    def state(self) -> WeightsState:
        """All fields at once."""
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
        """Whether the weights may be those of no kept checkpoint."""
        return bool(self._words[_DIRTY])

    @dirty.setter
    def dirty(self, value: bool) -> None:
        self._words[_DIRTY] = int(value)

    @property
    def holds(self) -> str:
        """Id of the checkpoint whose weights these are; "" in mid-update."""
        return self._page[_HOLDS].rstrip(b"\0").decode(errors="replace")  # another process may be writing it

    @holds.setter
    def holds(self, checkpoint_id: str) -> None:
        self._page[_HOLDS] = checkpoint_id.encode().ljust(64, b"\0")


def read_state(path: Path) -> WeightsState | None:
    """Return the state of the shared weights at `path`; None while there are none."""
    try:
        header = Header(path)
    except FileNotFoundError:
        return None
    return header.state if header.complete else None


@contextmanager
def writer_lock(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock of the only writer of the shared weights at `path`; yield whether it was acquired.

    The lock is on the file itself, so that new shared weights in its place have their own. With `wait` it is
    waited for as long as it takes.
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
