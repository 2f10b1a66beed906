"""The first page of a mapping: which weights it holds, for whoever maps them, and who may write them.

Invariant: `dirty` is set before the first write of an update and cleared only when the weights are again
those of the active checkpoint, so whoever finds it set knows that they are not. `version` grows with every
change of the weights; `holds` names a checkpoint only while the weights are wholly that one's. At most one process
writes: the kernel lets go of its lock with it, however it ends. Knows no tensor.
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
"""Numbers of the header's words (int64)."""
_HOLDS = slice(64, 128)
"""Bytes of the id of the checkpoint held, filled up with zeros."""
_OURS = 0x4E53_4D41_5050_0001


@dataclass(frozen=True, kw_only=True)
class WeightsState:
    """What the header says at one moment."""

    version: int
    """How often the weights have changed since the mapping was made."""
    dirty: bool
    """Whether the weights may be those of no kept checkpoint."""
    holds: str
    """Id of the checkpoint whose weights these are; "" in mid-update."""


class Header:
    """The header of the mapping at `path`, read and written in place."""

    def __init__(self, path: Path) -> None:
        with open(path, "r+b") as stream:
            self._page = mmap.mmap(stream.fileno(), HEADER_BYTES)
        self._words = memoryview(self._page).cast("q")  # native words: one is read and written whole

    def mark(self) -> None:
        """Say that this is a mapping of ours, complete."""
        self._words[_MAGIC] = _OURS

    @property
    def marked(self) -> bool:
        """Whether `mark` was called."""
        return self._words[_MAGIC] == _OURS

    @property
    def state(self) -> WeightsState:
        """All of it."""
        return WeightsState(version=self.version, dirty=self.dirty, holds=self.holds)

    @property
    def version(self) -> int:
        return self._words[_VERSION]

    def bump(self) -> int:
        """Say that the weights have changed; returns the new version."""
        self._words[_VERSION] += 1
        return self.version

    @property
    def dirty(self) -> bool:
        return bool(self._words[_DIRTY])

    @dirty.setter
    def dirty(self, value: bool) -> None:
        self._words[_DIRTY] = int(value)

    @property
    def holds(self) -> str:
        return self._page[_HOLDS].rstrip(b"\0").decode(errors="replace")  # it may be read while it is written

    @holds.setter
    def holds(self, checkpoint_id: str) -> None:
        self._page[_HOLDS] = checkpoint_id.encode().ljust(64, b"\0")


def read_state(path: Path) -> WeightsState | None:
    """What the mapping at `path` says now; None while there is none."""
    try:
        header = Header(path)
    except FileNotFoundError:
        return None
    return header.state if header.marked else None


@contextmanager
def writer_lock(path: Path, *, wait: bool) -> Iterator[bool]:
    """Be the writer of the mapping at `path` for a while; yields whether that could be.

    The lock is on the mapping itself, so that it goes with it: a new mapping in its place has its own. With
    `wait` it is waited for as long as it takes.
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
            fcntl.flock(stream, fcntl.LOCK_UN)  # not left to closing it: a forked child may have it open too
