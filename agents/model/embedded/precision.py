"""The type of the embedded server's products: that of the weights, or bfloat16 where it is quicker.

Invariant: a configured type is always kept. Left to itself, the server computes in bfloat16 only if the
processor has instructions for it, a measurement with the model's own matrices says that it is quicker, and
rounding cannot hide an update: float32 weights whose values are all bfloat16's would round back to where
they were before a small change. The shared weights are never rounded. This module knows nothing about
requests.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from agents.model.embedded.kernel import Linear
from agents.model.threads import SMALL_BYTES

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Types that can be configured, by name."""
INSTRUCTIONS = frozenset({"amx_bf16", "avx512_bf16"})
"""Linux's names for what a processor needs for products in bfloat16."""
SAMPLE_BYTES = 64 * 2**20
"""Size in float32 of the matrices that are measured: more than most caches hold."""
ROWS, ROUNDS = 32, 3
"""Rows of the measured products, and how often each is measured."""
GAIN = 0.8
"""Share of float32's time at which bfloat16 is taken."""


def dtype_for(
    configured: str, model: Any, *, flags: Callable[[], frozenset[str]] | None = None
) -> torch.dtype:
    """Return the type that this Hugging Face model's products are computed in.

    Args:
        configured: `model.dtype`: `auto` or a name in TYPES.
        model: The model.
        flags: Returns what the processor can do, in Linux's names; by default read from the system.
    """
    matrices = [parameter.detach() for parameter in model.parameters() if parameter.dim() == 2]
    stored: torch.dtype = matrices[0].dtype
    if configured != "auto":
        return TYPES[configured]
    if sum(4 * matrix.numel() for matrix in matrices) <= SMALL_BYTES or stored not in TYPES.values():
        return stored
    if not INSTRUCTIONS & (flags or _flags)():
        return stored
    sample = _sample(matrices)
    if stored == torch.float32 and all(matrix.bfloat16().float().equal(matrix) for matrix in sample):
        return stored
    quicker = _seconds(sample, torch.bfloat16) <= GAIN * _seconds(sample, torch.float32)
    return torch.bfloat16 if quicker else torch.float32


def _sample(matrices: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the first matrices of usual size that together have SAMPLE_BYTES, or all."""
    usual = sorted(matrix.numel() for matrix in matrices)[len(matrices) // 2]
    chosen, size = [], 0
    for matrix in matrices:
        if size < SAMPLE_BYTES and matrix.numel() <= 4 * usual:
            chosen.append(matrix)
            size += 4 * matrix.numel()
    return chosen


@torch.inference_mode()
def _seconds(matrices: list[torch.Tensor], dtype: torch.dtype) -> float:
    """Return the shortest time of the products of ROWS rows with all matrices, in seconds."""
    products = [(Linear([matrix.to(dtype)]), torch.ones(ROWS, matrix.shape[1])) for matrix in matrices]
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for linear, x in products:
            linear(x)
        times.append(time.perf_counter() - began)
    return min(times)


def _flags() -> frozenset[str]:
    """Return what the processor can do, in Linux's names; none where there is no such list."""
    try:
        with Path("/proc/cpuinfo").open() as file:
            return frozenset(next(line for line in file if line.startswith("flags")).split())
    except (OSError, StopIteration):
        return frozenset()
