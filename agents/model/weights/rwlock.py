"""A readers-writer lock between processes: no forward pass reads weights that are half written.

Any number of passes run at once; a change of the weights runs alone. The locks are on two bytes of the first
page of the shared weights, and each is held for one pass or one change. A writer first locks the gate, then
waits for the passes that are running; later passes wait at the gate.

Invariant: nobody waits longer than PATIENCE_S. After that the pass, or the change, runs without the lock,
because users are always answered. The kernel releases a lock with its process, however it ends. On a system
without open file description locks (all but Linux) nobody waits, and a pass may read weights that are half
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
"""Longest wait: many times a pass or a change of the embedded model. Only a stopped process takes longer."""
RETRY_S = 0.0005
"""Time between two attempts at a lock that another process holds; a pass takes a few times as long."""
_SET_LOCK: int | None = getattr(fcntl, "F_OFD_SETLK", None)
_GATE, _WEIGHTS = 0, 1
"""The bytes that are locked; their content does not matter."""


def _flock(kind: int, byte: int) -> bytes:
    """Return a `struct flock` of 64-bit Linux: of this kind, on one byte."""
    return struct.pack("@hhqqi4x", kind, os.SEEK_SET, byte, 1, 0)


_SHARED = {byte: _flock(fcntl.F_RDLCK, byte) for byte in (_GATE, _WEIGHTS)}
_EXCLUSIVE = {byte: _flock(fcntl.F_WRLCK, byte) for byte in (_GATE, _WEIGHTS)}
_UNLOCK = {byte: _flock(fcntl.F_UNLCK, byte) for byte in (_GATE, _WEIGHTS)}


class RWLock:
    """The lock of the shared weights at `path`; any thread may use it, for one lock at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()

    @contextmanager
    def read_lock(self) -> Iterator[None]:
        """Hold the lock for a forward pass: alongside other passes, not alongside a change."""
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
        """Hold the lock for a change of the weights: alone."""
        descriptor, deadline = self._descriptor(), monotonic() + PATIENCE_S
        _acquire(descriptor, _EXCLUSIVE[_GATE], deadline)
        _acquire(descriptor, _EXCLUSIVE[_WEIGHTS], deadline)
        try:
            yield
        finally:
            _release(descriptor, _WEIGHTS)
            _release(descriptor, _GATE)

    def _descriptor(self) -> int:
        """Return this thread's own descriptor: these locks belong to an open file, not to a process."""
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
    """Acquire this lock, or give up at the deadline (monotonic, s)."""
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
