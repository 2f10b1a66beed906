"""Durable files: under its final name a file is whole or does not exist.

A new file is written under a temporary name, synced and renamed, and then its folder is synced. Each of these
steps is a system call of its own, so that a test can record the calls, make any of them fail, or stop before
and after each.

Invariant: after `keep` returns, the file outlives a loss of power; before that, only a `*.tmp` file exists. A
file that cannot be synced counts as not written: it is removed and not synced again, because the system may
have dropped its data. This module knows nothing about the content of files.
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

_TEMPORARY = re.compile(r"[0-9a-f]{16}\.tmp")
_ADVICE = {
    errno.ENOSPC: "free some space, or `nightschool checkpoints prune --empty-trash`, then try again",
    errno.EDQUOT: "free some of your quota, or `nightschool checkpoints prune --empty-trash`, then try again",
    errno.EFBIG: "raise the limit on the size of files (`ulimit -f`), then try again",
    errno.EIO: "the disk fails: see the system's log, and move the home to another one",
    errno.EROFS: "the file system is read-only: see the system's log",
    errno.EACCES: "give this user the right to write there, then try again",
}


class NewFile:
    """A file that is being written under a temporary name; `new_file` opens it."""

    def __init__(self, path: Path, descriptor: int, what: str) -> None:
        self._path, self._descriptor, self._what = path, descriptor, what
        self._hash = hashlib.sha256()
        self.nbytes = 0

    @property
    def sha256(self) -> str:
        """Digest of the bytes written so far."""
        return self._hash.hexdigest()

    def write(self, data: bytes | memoryview) -> int:
        """Write all of the data and return the number of bytes; raise WriteFailed if that fails."""
        view = memoryview(data).cast("B")
        self._hash.update(view)
        with _explained(self._what, self._path.parent):
            _write_all(self._descriptor, view)
        reach(self._what, "part")
        self.nbytes += view.nbytes
        return view.nbytes

    def keep(self, name: str, *, replace: bool = True) -> Path:
        """Make the file durable under this name in its folder, and return its path.

        Args:
            name: The final name.
            replace: Whether to replace a file that has this name already.

        Raises:
            WriteFailed: The system refused; the message says why, and what to do.
            FileExistsError: A file has this name, and `replace` is False.
        """
        final = self._path.with_name(name)
        reach(self._what, "written")
        with _explained(self._what, final.parent):
            os.fsync(self._descriptor)
            reach(self._what, "synced")
            is_new = not final.exists()
            if replace:
                os.replace(self._path, final)
            else:
                os.link(self._path, final)
            reach(self._what, "renamed")
            try:
                sync_directory(final.parent)
            except OSError:
                if is_new:  # under its final name it would count as durable
                    final.unlink(missing_ok=True)
                raise
        reach(self._what, "kept")
        return final


@contextmanager
def new_file(folder: Path, what: str, mode: int = 0o600) -> Iterator[NewFile]:
    """Open a new file under a temporary name, and remove it at the end unless `keep` was called.

    Args:
        folder: The folder of the file.
        what: A name for the file in messages and in `failpoints`.
        mode: The permissions of the file, before the umask.
    """
    path = folder / f"{secrets.token_hex(8)}.tmp"
    with _explained(what, folder):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    reach(what, "opened")
    try:
        yield NewFile(path, descriptor, what)
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)


def append(path: Path, lines: bytes, what: str) -> None:
    """Append whole lines to a file, durably; after a failure the file has its old length.

    If the file ends inside a line, because its writer died, a newline is added first.

    Args:
        path: The file, which must not be a symbolic link; it is made with mode 0600 if it does not exist.
        lines: The lines, each with its newline.
        what: A name for the file in messages.

    Raises:
        WriteFailed: The system refused; the message says why, and what to do.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with _explained(what, path.parent):
        descriptor = os.open(path, flags, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            is_cut = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            try:
                _write_all(descriptor, memoryview(b"\n" + lines if is_cut else lines))
            except OSError:
                os.ftruncate(descriptor, size)
                raise
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if size == 0:
            sync_directory(path.parent)


def leftovers(folder: Path) -> list[Path]:
    """Return the temporary files that dead processes left; call it only while no process writes there."""
    return [path for path in folder.glob("*.tmp") if _TEMPORARY.fullmatch(path.name)]


def remove(paths: Iterable[Path], what: str) -> None:
    """Remove these files durably; files that do not exist are skipped.

    Args:
        paths: The files.
        what: A name for the files in `failpoints`.
    """
    folders = set()
    reach(what, "removing")
    for path in paths:
        path.unlink(missing_ok=True)
        folders.add(path.parent)
        reach(what, "unlinked")
    for folder in sorted(folders):
        sync_directory(folder)
    reach(what, "removed")


def link(path: Path, place: Path) -> None:
    """Give a file a second name on the same file system; it is durable once that name's folder is synced.

    Where a file system has no links, the file is renamed instead, and loses its first name.

    Args:
        path: The file.
        place: The second name; nothing may be there.
    """
    try:
        os.link(path, place)
    except FileExistsError:
        raise
    except OSError:
        os.rename(path, place)


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make this folder, and those of its parents that do not exist, durably."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with _explained("folder", folder.parent):
        folder.mkdir(mode=mode, exist_ok=True)
        reach("folder", "made")
        sync_directory(folder.parent)


def sync_directory(folder: Path) -> None:
    """Make all changes of names in this folder durable: files that were added, renamed or removed."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: memoryview) -> None:
    """Write all of the data, in several calls if need be.

    A signal, or a disk that fills up, may end a call early.
    """
    while data:
        data = data[os.write(descriptor, data) :]


@contextmanager
def _explained(what: str, folder: Path) -> Iterator[None]:
    """Turn an OSError of the body into a WriteFailed that names the file, the folder and the cure."""
    try:
        yield
    except FileExistsError:  # the caller asked for an unused name, and reports this itself
        raise
    except OSError as fault:
        advice = _ADVICE.get(fault.errno or 0, "remove the cause, then try again")
        raise WriteFailed(
            f"the {what} cannot be written in {folder} ({fault.strerror or fault}), "
            f"and nothing was kept: {advice}"
        ) from fault
