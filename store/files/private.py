"""Directories and files that only this user may enter: checked before anything in them is believed.

A directory with a known name in a place that everybody may write to (`/dev/shm`, `/tmp`) may have been
made by somebody else first. Invariant: what is not a directory of this user, or is a link, or is open to
others, counts as somebody else's. The sweep removes only what is this user's and has no living holder.
"""

import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import time

from corpus.errors import ConfigError

LOCK = "holder.lock"
"""File in a run directory that its holder keeps locked for as long as it lives."""
LOCKS = (LOCK, "server.lock")
"""The lock files of run directories: of a service, and of a user's own vLLM."""
YOUNG_S = 60.0
"""Age in seconds up to which a directory without a lock file may be one that is being made."""


def is_private(path: Path) -> bool:
    """Return whether a path is a directory of this user, no link, and closed to everybody else."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077


def is_taken(path: Path) -> bool:
    """Return whether somebody else made what is at this path: nothing in it may be believed."""
    return os.path.lexists(path) and not is_private(path)


def tighten(path: Path, mode: int) -> bool:
    """Take the rights beyond `mode` from a file or folder of this user; return whether there were any.

    Args:
        path: The file or folder; one that does not exist is skipped.
        mode: The widest mode that it may have.

    Raises:
        ConfigError: It belongs to another user, so its mode says nothing.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    if status.st_uid not in (os.geteuid(), 0):
        raise ConfigError(
            f"{path} belongs to another user (id {status.st_uid}): `chown` it, or use another home"
        )
    wide = stat.S_IMODE(status.st_mode) & ~mode
    if wide:
        path.chmod(stat.S_IMODE(status.st_mode) & mode)
    return bool(wide)


@contextmanager
def held_directory(path: Path) -> Iterator[Path]:
    """Make an empty private directory with a lock that this process holds, and remove it at the end.

    It gets its name only once the lock is held, so that a sweep never sees it without a holder.
    """
    remove_own(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    remove_own(temporary)
    temporary.mkdir(mode=0o700, parents=False)
    with open(temporary / LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.rename(temporary, path)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def remove_own(path: Path) -> None:
    """Remove a directory of this user, or a link that is there in its place; what is not ours stays."""
    with suppress(OSError):
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path)


def dead(base: Path, pattern: re.Pattern[str], *, but: Path) -> list[Path]:
    """Return the private directories in `base` of such a name whose holder is dead.

    Args:
        base: The folder to look in.
        pattern: What the whole name of a directory has to match.
        but: A directory that is left out.
    """
    places = (path for path in base.iterdir() if pattern.fullmatch(path.name) and path != but)
    return sorted(path for path in places if is_private(path) and not _has_holder(path))


def _has_holder(path: Path) -> bool:
    """Return whether a living process uses this directory, or may be about to."""
    locks = [path / name for name in LOCKS if (path / name).exists()]
    for lock in locks:
        with suppress(FileNotFoundError), open(lock) as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    try:  # made by an earlier version, which locked nothing: its sockets say whether it lives
        return not locks and (time() - path.stat().st_mtime < YOUNG_S or _has_socket(path))
    except OSError:
        return True


def _has_socket(path: Path) -> bool:
    """Return whether a process listens on a socket in this directory; True if the system does not say."""
    try:
        return f" {path}/" in Path("/proc/net/unix").read_text()
    except OSError:
        return True
