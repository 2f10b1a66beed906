"""How a child of the service ends with it.

Invariant: once `die_with_parent` has returned, this process does not outlive the process that started it. Knows
neither what it serves nor why.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""prctl(2): the signal to get when the parent dies."""


def die_with_parent(parent: int | None) -> None:
    """Have the kernel kill this process when its parent ends, and stop now if it already has.

    parent: the process id that the parent must have, if it is known.
    """
    before = os.getppid()
    if sys.platform == "linux":
        # The signal follows the *thread* that started us: the service starts children from its main thread.
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # The parent may have gone before the kernel was asked to watch it.
    if os.getppid() != (before if parent is None else parent):
        raise SystemExit("the parent has gone; nothing to work for")
