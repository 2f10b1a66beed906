"""The directory in memory in which a vLLM shares its weights, and the lock of the one server that owns it.

    weights.bin  weights.json   the shared weights and their manifest
    handles.sock                the socket that exports weights on a GPU
    server.lock                 held by the serving process for as long as it lives
    refused                     the reason why no weights are shared
    readings-...                the socket on which the server publishes readings of the residual stream

Invariant: the kernel releases a lock when its process ends, so files without a locked server.lock are stale,
and the next process removes them. Only the holder of the lock removes anything. This module knows nothing
about vLLM or torch.
"""

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import IO

from corpus.aliases import Json
from corpus.errors import HomeLocked

WEIGHTS_FILE = "weights.bin"
_LOCK = "server.lock"
_FILES = (WEIGHTS_FILE, "weights.json", "weights.filling", "weights.tmp", "handles.sock", "refused", _LOCK)
_TRIES, _PAUSE_S = 4, 0.05
"""Attempts to get the lock, and the seconds between two of them. Several are needed, because a process that
only checks for a server, or removes stale files, also holds the lock for a moment."""


@dataclass(frozen=True, kw_only=True)
class ServedManifest:
    """The part of the shared weights' manifest that can be used without torch."""

    model: Path
    """The model's directory."""
    nbytes: int
    """Bytes of the shared weights."""
    on_gpu: bool
    """Whether the weights are on a GPU."""
    entries: list[Json]
    """The parameters: see `agents.model.weights.shared.Entry`."""


class ServedDirectory:
    """The directory in which one home's weights are served."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.weights_file = directory / WEIGHTS_FILE
        self._lock: IO[str] | None = None

    def acquire(self) -> None:
        """Make this process the server of the directory, and remove the files that a dead server left.

        It stays the server until `release` or until it ends. If another process is the server, `HomeLocked`
        is raised.
        """
        lock = self._try_lock()
        if lock is None:
            raise HomeLocked(
                f"another vLLM serves the home of {self.directory}: stop it, or give this one its own "
                "NIGHTSCHOOL_HOME"
            )
        os.register_at_fork(after_in_child=lock.close)  # a child that outlives the server must not hold it
        self._lock = lock
        self._remove(keep=_LOCK)

    def refuse(self, reason: str) -> None:
        """Record in the directory why no weights are shared."""
        temporary = self.directory / "weights.tmp"
        temporary.write_text(reason)
        os.replace(temporary, self.directory / "refused")

    @property
    def refused(self) -> str:
        """The reason why the server shares no weights; "" if it shares them, or if there is no server."""
        try:
            return (self.directory / "refused").read_text() if self.is_served() else ""
        except FileNotFoundError:
            return ""

    def manifest(self) -> ServedManifest | None:
        """Return the manifest of the shared weights; None while no weights are shared."""
        try:
            manifest: Json = json.loads(self.weights_file.with_suffix(".json").read_text())
        except FileNotFoundError:
            return None
        return ServedManifest(
            model=Path(manifest["model"]),
            nbytes=int(manifest["nbytes"]),
            on_gpu=bool(manifest.get("lent")),
            entries=manifest["entries"],
        )

    def is_served(self) -> bool:
        """Return whether a living process serves this directory."""
        try:
            with open(self.directory / _LOCK) as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def release(self) -> None:
        """Remove all files and release the lock, if this process is the server; else do nothing."""
        if self._lock is not None:
            self._remove()
            self._unlock(self._lock)
            self._lock = None

    def sweep(self) -> None:
        """Remove the files of a dead server; if a living process is the server, do nothing."""
        if self.directory.is_dir() and (lock := self._try_lock()) is not None:
            self._remove()
            self._unlock(lock)

    def _try_lock(self) -> IO[str] | None:
        """Return the lock's open file, with the lock held; None if a living process holds the lock."""
        for _ in range(_TRIES):
            self.directory.mkdir(mode=0o700, exist_ok=True)
            os.chmod(self.directory, 0o700)
            lock = open(self.directory / _LOCK, "a")  # held for longer than this function
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if (self.directory / _LOCK).stat().st_ino == os.fstat(lock.fileno()).st_ino:
                    return lock
            except (BlockingIOError, FileNotFoundError):  # held; or removed between opening and locking it
                pass
            lock.close()
            sleep(_PAUSE_S)
        return None

    def _unlock(self, lock: IO[str]) -> None:
        fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough: a forked child may have it open too
        lock.close()

    def _remove(self, keep: str = "") -> None:
        for name in _FILES:
            if name != keep:
                (self.directory / name).unlink(missing_ok=True)
        for socket in self.directory.glob("readings-*"):
            socket.unlink(missing_ok=True)
        if not keep and not any(self.directory.iterdir()):
            self.directory.rmdir()
