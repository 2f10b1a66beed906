"""A readers-writer lock between processes: no forward pass reads weights that are half written.

Any number of forward passes run at once; a change of the weights runs alone. The lock is made of two file
locks, on the first two bytes of the shared weights: the gate, and the weights. A pass locks the gate, then
the weights, and leaves the gate. A change locks the gate, so that later passes wait there, then waits for the
weights until the running passes have ended.

Invariant: nothing waits longer than PATIENCE_S. After that time the pass, or the change, runs without the
lock, because users must always be answered. The kernel releases a lock when its process ends. Systems other
than Linux lack open file description locks: there nothing waits, and a pass may read weights that are half
written. This module knows nothing about tensors.
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
"""Longest wait in seconds: many times as long as a pass or a change of the embedded model takes. Only a
process that is stopped holds the lock for longer."""
RETRY_S = 0.0005
"""Seconds between two attempts at a lock that another process holds; a pass takes a few times as long."""
_SET_LOCK: int | None = getattr(fcntl, "F_OFD_SETLK", None)
_GATE, _WEIGHTS = 0, 1
"""Positions of the bytes that are locked; their content does not matter."""


def _flock(kind: int, byte: int) -> bytes:
    """Return the `struct flock` of 64-bit Linux for a lock of this kind on one byte of the file."""
    return struct.pack("@hhqqi4x", kind, os.SEEK_SET, byte, 1, 0)


_SHARED = {byte: _flock(fcntl.F_RDLCK, byte) for byte in (_GATE, _WEIGHTS)}
_EXCLUSIVE = {byte: _flock(fcntl.F_WRLCK, byte) for byte in (_GATE, _WEIGHTS)}
_UNLOCK = {byte: _flock(fcntl.F_UNLCK, byte) for byte in (_GATE, _WEIGHTS)}


class RWLock:
    """The lock of the shared weights at `path`; each thread may hold one read or write lock at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()

    @contextmanager
    def read_lock(self) -> Iterator[None]:
        """Hold the lock for a forward pass: other passes may run meanwhile, a change may not."""
        descriptor, deadline = self._descriptor(), monotonic() + PATIENCE_S
        _acquire(descriptor, _SHARED[_GATE], deadline)
        _acquire(descriptor, _SHARED[_WEIGHTS], deadline)
        _release(descriptor, _GATE)
        try:
            yield
        finally:
            _release(descriptor, _WEIGHTS)

    @contextmanager
    def write_lock(self) -> Iterator[None]:
        """Hold the lock for a change of the weights: no pass and no other change may run meanwhile."""
        descriptor, deadline = self._descriptor(), monotonic() + PATIENCE_S
        _acquire(descriptor, _EXCLUSIVE[_GATE], deadline)
        _acquire(descriptor, _EXCLUSIVE[_WEIGHTS], deadline)
        try:
            yield
        finally:
            _release(descriptor, _WEIGHTS)
            _release(descriptor, _GATE)

    def _descriptor(self) -> int:
        """Return this thread's own file descriptor, because these locks belong to an open file."""
        opened: _OpenFile | None = getattr(self._local, "opened", None)
        if opened is None:
            opened = self._local.opened = _OpenFile(self.path)
        return opened.descriptor


class _OpenFile:
    """An open file that is closed when its thread ends."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


def _acquire(descriptor: int, lock: bytes, deadline: float) -> None:
    """Acquire the lock, or return without it at the deadline (in seconds of the monotonic clock)."""
    while _SET_LOCK is not None:
        try:
            fcntl.fcntl(descriptor, _SET_LOCK, lock)
            return
        except BlockingIOError:
            if monotonic() > deadline:
                return
            sleep(RETRY_S)


def _release(descriptor: int, byte: int) -> None:
    if _SET_LOCK is not None:
        fcntl.fcntl(descriptor, _SET_LOCK, _UNLOCK[byte])
