"""Failpoints: named points in the code at which a test makes this process die, one at every durable step.

    NS_CRASH_AT=POINT:N:FLAG        die when POINT is reached for the N-th time, if the file FLAG exists
    NS_CRASH_AT=POINT:N:FLAG:all    the same, with the whole process group

The process removes the file FLAG before it dies. So only one process with the variable dies, and only once,
even if processes are started again. The variable is not a setting, so its name does not have the prefix of
settings.

Invariant: unless the variable is set, `reach` is one comparison. The process dies of SIGKILL, so nothing is
cleaned up. This module knows nothing about the content of files.
"""

import os
import signal
from collections import Counter
from pathlib import Path

from corpus.errors import ConfigError

VARIABLE = "NS_CRASH_AT"
_STEPS = {
    "opened": "{} has a temporary file, which is empty",
    "part": "a part of {} is written",
    "written": "all of {} is written and nothing of it is synced",
    "synced": "{} is synced under its temporary name",
    "renamed": "{} has its final name, which is not durable",
    "kept": "{} is durable",
}
_REMOVALS = {
    "removing": "{} are about to be removed",
    "unlinked": "one of {} is removed, which is not durable",
    "removed": "{} are removed durably",
}
_FILES = {
    "weights": "the blob of the weights",
    "optimizer": "the optimizer's state",
    "manifest": "the manifest",
    "log": "a log without the forgotten lines",
    "vectors": "a file of the concept vectors",
    "owner": "the file that names the ledger of the checkpoints",
    "token": "a token",
}
_TOMBSTONE = "the tombstone of a dropped optimizer state"
_REMOVED = {
    "stale": "a blob's other forms",
    "states": "the files of a dropped optimizer state",
    "orphans": "the orphans",
    "trash": "files in the trash",
}

POINTS: dict[str, str] = {
    "folder.made": "a new folder exists, and its name is not durable",
    **{f"{file}.{step}": text.format(name) for file, name in _FILES.items() for step, text in _STEPS.items()},
    **{f"mark.{step}": text.format(_TOMBSTONE) for step, text in _STEPS.items() if step != "part"},  # empty
    **{
        f"{files}.{step}": text.format(name)
        for files, name in _REMOVED.items()
        for step, text in _REMOVALS.items()
    },
    "ledger.committing": "a transaction has all its rows and is not committed",
    "ledger.committed": "a transaction is committed and not yet announced",
    "update.marked": "the shared weights are marked dirty, and a step has changed nothing yet",
    "update.applied": "a step has changed the weights, and their version is the old one",
    "candidate.held": "the shared weights are marked as the candidate's, and no row names it",
    "restore.marked": "the shared weights are marked dirty, and nothing is restored yet",
    "restore.written": "the weights are restored, and no checkpoint is marked as held",
    "restore.held": "the checkpoint is marked as held, and the shared weights are still marked dirty",
    "restore.settled": "the shared weights are clean, and nobody knows it yet",
}
"""What is done and what is not at each failpoint of a night, by the failpoint's name."""
BACKUP_POINTS: dict[str, str] = {
    f"backup.{step}": text.format("a file of a backup") for step, text in _STEPS.items()
}
"""The same for a backup and a restore, of which no night has any."""

_armed = os.environ.get(VARIABLE, "")
_reached: Counter[str] = Counter()


def reach(about: str, step: str) -> None:
    """Report that the failpoint `about.step` is reached; a process that must die here does not return."""
    if _armed:
        _die_if_due(f"{about}.{step}")


def arm(value: str) -> None:
    """Use `value` in place of the environment variable; "" disarms every failpoint."""
    global _armed  # noqa: PLW0603  reach must stay one comparison
    _armed = value
    _reached.clear()


def _die_if_due(point: str) -> None:
    wanted, number, flag, victims = (*_armed.split(":"), "", "", "")[:4]
    if wanted not in POINTS | BACKUP_POINTS or not number.isdigit() or not flag or victims not in ("", "all"):
        raise ConfigError(
            f"{VARIABLE}={_armed}: write POINT:N:FLAG or POINT:N:FLAG:all; "
            "store/files/failpoints.py has the points"
        )
    _reached[point] += 1
    if point != wanted or _reached[point] != int(number):
        return
    try:
        Path(flag).unlink()
    except FileNotFoundError:  # another process died here, or this one's predecessor
        return
    if victims:
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
