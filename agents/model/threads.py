"""How many threads a process computes with, when the configuration leaves it to the machine.

Invariant: the same model on the same machine gets the same number, because the number of threads decides the
last bits of some sums. This module knows nothing about torch.
"""

import os
from pathlib import Path

SMALL_BYTES = 16 * 2**20
"""Weights up to this size are computed with one thread: they stay in its cache, and sharing costs more than
it saves."""
MOST = 16
"""Beyond this number of threads a model that fits into such a machine's memory gains little."""
SPINS = 2000
"""How often a thread looks whether the others are done before it sleeps: about 0.1 ms. OpenMP's own 300,000
take up to 20 ms, and take them from the threads that are waited for when other programs use the cores."""
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Where Linux says how much processor time a container gets: microseconds of each period, and the period."""


def threads_for(configured: int, model_dir: Path | None) -> int:
    """Return the number of threads for a model.

    Args:
        configured: `model.threads`; 0 leaves it to the machine.
        model_dir: The model's directory; None if it is not known here.
    """
    if configured:
        return configured
    if model_dir is None or weight_bytes(model_dir) <= SMALL_BYTES:
        return 1
    return min(cores(), MOST)


def wait_briefly() -> None:
    """Have OpenMP's threads wait for each other without using up the cores; call it before torch is loaded.

    A user's own GOMP_SPINCOUNT or OMP_WAIT_POLICY stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


def weight_bytes(model_dir: Path) -> int:
    """Return the size of a model's files of weights, in bytes."""
    return sum(path.stat().st_size for path in model_dir.glob("*.safetensors"))


def cores() -> int:
    """Return the number of cores that this process may use."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no container, or no limit ("max")
        return cores
