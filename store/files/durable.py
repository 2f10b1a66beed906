"""Files that are there whole under their name, or not at all.

A new file is written under a temporary name, synced, renamed, and its folder synced: data, then name. The system's
own calls are made one by one, so that a test can record them, let any of them fail, or stop before and after each.

Invariant: after `keep` returns, the file outlives a loss of power; before it is called there is only a `*.tmp`. What
cannot be synced counts as not written: it is taken away and never synced again, for the system may have forgotten it.
Knows nothing of what is written.
"""

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from corpus.errors import WriteFailed
from store.files.failpoints import reach

_LEFT = re.compile(r"[0-9a-f]{16}\.tmp")
_ADVICE = {
    errno.ENOSPC: "free some room, or `nightschool checkpoints prune` old ones, then try again",
    errno.EDQUOT: "free some of your quota, or `nightschool checkpoints prune` old ones, then try again",
    errno.EFBIG: "raise the limit on the size of files (`ulimit -f`), then try again",
    errno.EIO: "the disk fails: see the system's log, and move the home to another one",
    errno.EROFS: "the file system is read-only: see the system's log",
}


class NewFile:
    """A file that is being written. Make one with `new_file`."""

    def __init__(self, path: Path, descriptor: int, what: str) -> None:
        self._path, self._descriptor, self._what = path, descriptor, what
        self._hash = hashlib.sha256()
        self.nbytes = 0

    @property
    def sha256(self) -> str:
        """Of what was written so far."""
        return self._hash.hexdigest()

    def write(self, data: bytes | memoryview) -> int:
        """Write all of it; returns the number of bytes. `WriteFailed` where that cannot be."""
        rest = memoryview(data).cast("B")
        self._hash.update(rest)
        with _explained(self._what, self._path.parent):
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        reach(self._what, "part")
        length = memoryview(data).nbytes
        self.nbytes += length
        return length

    def keep(self, name: str) -> Path:
        """Make it durable under this name in its folder, in place of what was there; `WriteFailed` as for `write`."""
        final = self._path.with_name(name)
        reach(self._what, "written")
        with _explained(self._what, final.parent):
            os.fsync(self._descriptor)
            reach(self._what, "synced")
            is_new = not final.exists()
            os.replace(self._path, final)
            reach(self._what, "renamed")
            try:
                sync_directory(final.parent)
            except OSError:
                if is_new:  # found under its name it would pass for durable
                    final.unlink(missing_ok=True)
                raise
        reach(self._what, "kept")
        return final


@contextmanager
def new_file(folder: Path, what: str) -> Iterator[NewFile]:
    """A file in this folder that goes again unless it is kept. what: it is, for a message and for `failpoints`."""
    path = folder / f"{secrets.token_hex(8)}.tmp"
    with _explained(what, folder):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    reach(what, "opened")
    try:
        yield NewFile(path, descriptor, what)
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)


def leftovers(folder: Path) -> list[Path]:
    """What processes that died have left of new files in this folder; only while nobody writes there."""
    return [path for path in folder.glob("*.tmp") if _LEFT.fullmatch(path.name)]


def remove(paths: Iterable[Path], what: str) -> None:
    """Remove these files, where they are there, for good. what: as for `new_file`."""
    folders = set()
    reach(what, "removing")
    for path in paths:
        path.unlink(missing_ok=True)
        folders.add(path.parent)
        reach(what, "unlinked")
    for folder in sorted(folders):
        sync_directory(folder)
    reach(what, "removed")


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make this folder, and those above it, durably where they are not there."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with _explained("folder", folder.parent):
        folder.mkdir(mode=mode, exist_ok=True)
        reach("folder", "made")
        sync_directory(folder.parent)


def sync_directory(folder: Path) -> None:
    """Make what was made, renamed or removed in this folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _explained(what: str, folder: Path) -> Iterator[None]:
    """Say of what the system refuses which file it was, where, and what to do."""
    try:
        yield
    except OSError as fault:
        advice = _ADVICE.get(fault.errno or 0, "see to it, then try again")
        raise WriteFailed(
            f"the {what} cannot be written in {folder} ({fault.strerror or fault}), and nothing was kept: {advice}"
        ) from fault
