"""Passes through the model and changes of the weights take turns, so that no pass reads what is half written.

Many passes may be made at once, a change by itself. The locks are on two bytes of the mapping's first page, held
for one pass or one change: whoever wants to change the weights closes the gate, and waits for the passes that are
under way; the next ones wait at the gate.

Invariant: nobody waits longer than PATIENCE_S: then a pass is made, or a change, all the same, for users are
answered throughout. The kernel lets go of a lock with its process, however it ends. On a system without locks of an
opening (all but Linux) nobody waits, and a pass may read what is half written. Knows no tensor.
"""

import fcntl
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

PATIENCE_S = 2.0
"""Many times what a pass or a change of the embedded model takes: only a process that was stopped takes longer."""
LOOK_S = 0.0005
"""Between two looks at a lock that another has; a pass takes a few times as long."""
_SET: int | None = getattr(fcntl, "F_OFD_SETLK", None)
_GATE, _WEIGHTS = 0, 1
"""The bytes that are locked; nobody reads or writes them for that."""


def _lock(kind: int, byte: int) -> bytes:
    """A `struct flock` of 64-bit Linux: of this kind, on one byte."""
    return struct.pack("@hhqqi4x", kind, os.SEEK_SET, byte, 1, 0)


_SHARE = {byte: _lock(fcntl.F_RDLCK, byte) for byte in (_GATE, _WEIGHTS)}
_OWN = {byte: _lock(fcntl.F_WRLCK, byte) for byte in (_GATE, _WEIGHTS)}
_LEAVE = {byte: _lock(fcntl.F_UNLCK, byte) for byte in (_GATE, _WEIGHTS)}


class RWLock:
    """The turns at the mapping at `path`; any thread may take them, one turn at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mine = threading.local()

    @contextmanager
    def read_lock(self) -> Iterator[None]:
        """While the model is read: beside other passes, not beside a change."""
        at, until = self._descriptor(), monotonic() + PATIENCE_S
        _take(at, _SHARE[_GATE], until)
        _take(at, _SHARE[_WEIGHTS], until)
        _leave(at, _GATE)
        try:
            yield
        finally:
            _leave(at, _WEIGHTS)

    @contextmanager
    def write_lock(self) -> Iterator[None]:
        """While the weights are written: alone."""
        at, until = self._descriptor(), monotonic() + PATIENCE_S
        _take(at, _OWN[_GATE], until)
        _take(at, _OWN[_WEIGHTS], until)
        try:
            yield
        finally:
            _leave(at, _WEIGHTS)
            _leave(at, _GATE)

    def _descriptor(self) -> int:
        """This thread's own opening of the file: a lock belongs to an opening, not to a process."""
        opening: _Opening | None = getattr(self._mine, "opening", None)
        if opening is None:
            opening = self._mine.opening = _Opening(self.path)
        return opening.descriptor


class _Opening:
    """An open file, closed when its thread is gone."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


def _take(descriptor: int, lock: bytes, until: float) -> None:
    """Take this lock, if it can be had until then (monotonic, s)."""
    while _SET is not None:
        try:
            fcntl.fcntl(descriptor, _SET, lock)
            return
        except BlockingIOError:
            if monotonic() > until:
                return
            sleep(LOOK_S)


def _leave(descriptor: int, byte: int) -> None:
    if _SET is not None:
        fcntl.fcntl(descriptor, _SET, _LEAVE[byte])
