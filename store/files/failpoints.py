"""Places where this process can be made to die, so that a test can crash it at every durable step.

    NS_CRASH_AT=POINT:N:FLAG        die the N-th time that POINT is reached, while the file FLAG is there
    NS_CRASH_AT=POINT:N:FLAG:all    the same, with the whole process group

The file is removed first: of all processes that get the variable one dies, once, whoever is started again. The name
does not begin with the prefix of settings, for this is none.

Invariant: unless the variable is set, `reach` is one comparison. Death is SIGKILL: nothing is cleaned up. Knows nothing
of what is written.
"""

import os
import signal
from collections import Counter
from pathlib import Path

from corpus.errors import ConfigError

VARIABLE = "NS_CRASH_AT"
_STEPS = {
    "opened": "{} has a temporary file, still empty",
    "part": "a part of {} is written",
    "written": "all of {} is written, and nothing of it synced",
    "synced": "{} is synced, under its temporary name",
    "renamed": "{} has its name, which may not last",
    "kept": "{} is durable",
}
_REMOVALS = {
    "removing": "{} are about to go",
    "unlinked": "one of {} has gone, which may not last",
    "removed": "{} have gone for good",
}
_FILES = {
    "weights": "the blob of the weights",
    "optimizer": "the optimizer's state",
    "manifest": "the manifest",
    "log": "a log without what is forgotten",
    "vectors": "a file of the concept vectors",
}
_MARK = "the mark of a state that is given up"
_GOING = {
    "stale": "a blob's other forms",
    "states": "the files of a state that was given up",
    "orphans": "the orphans",
}

POINTS: dict[str, str] = {
    "folder.made": "a new folder is there, and its name may not last",
    **{f"{file}.{step}": text.format(name) for file, name in _FILES.items() for step, text in _STEPS.items()},
    **{f"mark.{step}": text.format(_MARK) for step, text in _STEPS.items() if step != "part"},  # it is empty
    **{
        f"{files}.{step}": text.format(name)
        for files, name in _GOING.items()
        for step, text in _REMOVALS.items()
    },
    "ledger.committing": "a transaction has all its rows, and is not committed",
    "ledger.committed": "a transaction is committed, and nobody has heard of it",
    "update.marked": "the mapping says that it is dirty, and a step has changed nothing yet",
    "update.applied": "a step has changed the weights, and their version is the old one",
    "candidate.held": "the mapping says that it holds the candidate, whom no row names",
    "restore.marked": "the mapping says that it is dirty, and nothing is put back yet",
    "restore.written": "the weights are put back, and the mapping says that it holds nothing",
    "restore.held": "the mapping says what it holds, and is dirty",
    "restore.settled": "the mapping is clean, and nobody has heard of it",
}
"""Every point: what has happened when it is reached."""

_armed = os.environ.get(VARIABLE, "")
_reached: Counter[str] = Counter()


def reach(about: str, step: str) -> None:
    """Say that this point has come; a process that is to die here does not return."""
    if _armed:
        _die_if_due(f"{about}.{step}")


def arm(sentence: str) -> None:
    """Take this in place of the variable's value; "" for none."""
    global _armed
    _armed = sentence
    _reached.clear()


def _die_if_due(point: str) -> None:
    wanted, number, flag, victims = (
        (*_armed.split(":"), "")[:4] if _armed.count(":") >= 2 else (_armed, "", "", "")
    )
    if wanted not in POINTS or not number.isdigit() or victims not in ("", "all"):
        raise ConfigError(
            f"{VARIABLE}={_armed}: it has to be POINT:N:FLAG or POINT:N:FLAG:all; see store/files/failpoints.py"
        )
    _reached[point] += 1
    if point != wanted or _reached[point] != int(number):
        return
    try:
        Path(flag).unlink()
    except FileNotFoundError:  # another process was it, or this one's predecessor
        return
    if victims:
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
