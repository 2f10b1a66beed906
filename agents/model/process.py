"""Process settings that Python has no call for: to end with the parent process, and to keep freed memory.

Invariant: once `die_with_parent` has returned, this process does not outlive the one that started it. This
module does not know what the process serves.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""Option of prctl(2): the signal to get when the parent dies."""
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
"""Parameters of glibc's mallopt(3)."""


def die_with_parent(parent: int | None) -> None:
    """Have the kernel kill this process when its parent ends; exit now if it already has.

    parent: the expected process id of the parent; None if it is not known.
    """
    before = os.getppid()
    if sys.platform == "linux":
        # The signal follows the *thread* that started us: the service starts children from its main thread.
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # The parent may have ended before the kernel was asked.
    if os.getppid() != (before if parent is None else parent):
        raise SystemExit("the parent process has ended, so this one stops")


def keep_freed_memory() -> None:
    """Have malloc keep freed memory: new pages from the kernel cost a sixth of a batch's time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 * 1024 * 1024)
        mallopt(_M_TRIM_THRESHOLD, 1024 * 1024 * 1024)
        mallopt(_M_TOP_PAD, 64 * 1024 * 1024)
