"""The watchdog of child processes: finds a child that neither answers nor works, though it has not ended.

A stopped or deadlocked child holds its requests for ever, and its process seems to be well. Each child is
asked for a sign of life every BEAT_S. Invariant: a child is hung if it owes MISSED answers in a row and
has used no processor meanwhile, or owes BUSY_MISSED, whatever it does. So a child that only waits for a
processor on a loaded machine is left alone. This module knows nothing about what a child does.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio

BEAT_S = 2.0
"""Seconds between two signs of life, and the longest wait for one."""
MISSED = 3
"""Missing answers in a row from which an idle child is hung: found within 8 s, restarted within 10 s."""
BUSY_MISSED = 60
"""Missing answers in a row from which a child is hung although it uses the processor: two minutes."""


def is_hung(missed: int, worked: bool) -> bool:
    """Return whether a child is hung.

    Args:
        missed: Number of answers in a row that it owes.
        worked: Whether it has used the processor since its last answer.
    """
    return missed >= (BUSY_MISSED if worked else MISSED)


async def wait_hung(pid: int, answers: Callable[[], Awaitable[object]]) -> None:
    """Return when a child is hung; until then, ask it for signs of life.

    Args:
        pid: Process id of the child.
        answers: Asks the child and returns when it answers; False and errors count as no answer.
    """
    missed, used = 0, cpu_ticks(pid)
    while not is_hung(missed, cpu_ticks(pid) > used):
        if await _answers(answers):
            missed, used = 0, cpu_ticks(pid)
            await anyio.sleep(BEAT_S)
        else:
            missed += 1


async def _answers(answers: Callable[[], Awaitable[object]]) -> bool:
    """Return whether the child answers within BEAT_S; a refusal before that is waited out."""
    with anyio.move_on_after(BEAT_S):
        try:
            return await answers() is not False
        except Exception:  # whatever is wrong with the answer, it is none
            await anyio.sleep(BEAT_S)
    return False


def cpu_ticks(pid: int) -> int:
    """Return the processor time that a process has used, in clock ticks; 0 where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])
