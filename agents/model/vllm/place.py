"""Where a vLLM keeps the mapping of its weights for others: a directory in memory, and who may be there.

    weights.bin  weights.json   the mapping and its manifest
    handles.sock                where weights on a GPU are lent out
    server.lock                 held by the process that serves it, for as long as it lives
    refused                     why there is no mapping, in words
    readings-...                the socket on which a server tells what it reads off the residual stream

Invariant: the kernel lets go of a lock with its process, however that ends: what no living process holds is stale
and may be swept, and only who holds the lock takes anything away. Knows neither vLLM nor torch.
"""

import fcntl
import json
import os
from pathlib import Path
from time import sleep
from typing import IO, Any

from corpus.errors import HomeLocked

MAPPING = "weights.bin"
_LOCK = "server.lock"
_OURS = (MAPPING, "weights.json", "weights.filling", "weights.tmp", "handles.sock", "refused", _LOCK)
_TRIES, _PAUSE_S = 4, 0.05
"""Who only looks whether there is a server, or sweeps, holds the lock for a moment itself."""


class Place:
    """The directory of one home's served weights."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mapping = directory / MAPPING
        self._lock: IO[str] | None = None

    def take(self) -> None:
        """Become the server here, until this process ends; what a dead one left is swept."""
        lock = self._hold()
        if lock is None:
            raise HomeLocked(
                f"another vLLM serves the home of {self.directory}: stop it, or give this one its own NIGHTSCHOOL_HOME"
            )
        os.register_at_fork(after_in_child=lock.close)  # a child that lives on must not keep it
        self._lock = lock
        self._remove(keep=_LOCK)

    def refuse(self, reason: str) -> None:
        """Say why there is no mapping here."""
        temporary = self.directory / "weights.tmp"
        temporary.write_text(reason)
        os.replace(temporary, self.directory / "refused")

    @property
    def refused(self) -> str:
        """Why the server shares nothing; "" when it does, or when there is none."""
        try:
            return (self.directory / "refused").read_text() if self.is_served() else ""
        except FileNotFoundError:
            return ""

    def manifest(self) -> dict[str, Any] | None:
        """What the manifest says; None while there is none."""
        try:
            told: dict[str, Any] = json.loads(self.mapping.with_suffix(".json").read_text())
        except FileNotFoundError:
            return None
        return told

    def is_served(self) -> bool:
        """Whether a living process is the server here."""
        try:
            with open(self.directory / _LOCK) as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def leave(self) -> None:
        """Take everything away again; for the server, at its end."""
        if self._lock is not None:
            self._remove()
            self._let_go(self._lock)
            self._lock = None

    def sweep(self) -> None:
        """Take away what a dead server left; a living one's is left alone."""
        if self.directory.is_dir() and (lock := self._hold()) is not None:
            self._remove()
            self._let_go(lock)

    def _hold(self) -> IO[str] | None:
        """The lock, held; None while a living process has it."""
        for _ in range(_TRIES):
            self.directory.mkdir(mode=0o700, exist_ok=True)
            os.chmod(self.directory, 0o700)
            lock = open(self.directory / _LOCK, "a")  # noqa: SIM115  (held for longer than this)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if (self.directory / _LOCK).stat().st_ino == os.fstat(lock.fileno()).st_ino:
                    return lock
            except (BlockingIOError, FileNotFoundError):  # held; or swept between opening and locking it
                pass
            lock.close()
            sleep(_PAUSE_S)
        return None

    def _let_go(self, lock: IO[str]) -> None:
        fcntl.flock(lock, fcntl.LOCK_UN)  # not left to closing it: a forked child may have it open too
        lock.close()

    def _remove(self, keep: str = "") -> None:
        for name in _OURS:
            if name != keep:
                (self.directory / name).unlink(missing_ok=True)
        for socket in self.directory.glob("readings-*"):
            socket.unlink(missing_ok=True)
        if not keep and not any(self.directory.iterdir()):
            self.directory.rmdir()
