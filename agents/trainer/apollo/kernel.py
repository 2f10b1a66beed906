"""The compiled form of Apollo's passes over matrices on the CPU (`kernel.c`), called through ctypes.

Invariant: the numbers are those of `step.MatrixBatch` up to float32 rounding, whatever the number of threads.
If the library was not built (no compiler, another system) or cannot process a matrix, `suits` returns False
and torch does the work. This module knows nothing about the optimizer: its input is one step.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import torch

from agents.trainer.apollo.rounding import keys_of
from agents.trainer.apollo.step import ParamStep
from corpus.errors import TrainerFault

MEASURE, APPLY = 1, 2
LARGE = 1 << 22
"""Number of elements from which the threads share one matrix and do one pass after the other. Such a gradient
is too large to stay in a cache until the second pass."""
_KINDS = (torch.float32, torch.bfloat16)


class _Matrix(ctypes.Structure):
    """The struct of the same name in kernel.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("gradient", "weight", "moment1", "moment2", "projection")),
        *((name, ctypes.c_void_p) for name in ("scales", "sums")),
        *((name, ctypes.c_int64) for name in ("rows", "cols", "rank")),
        *((name, ctypes.c_int32) for name in ("dense", "tensor_wise", "gradient_bf16", "weight_bf16")),
        *((name, ctypes.c_float) for name in ("beta1", "beta2", "rest1", "rest2", "eps", "alpha")),
        *((name, ctypes.c_float) for name in ("growth_limit", "rate", "decay")),
        *((name, ctypes.c_uint32) for name in ("key1", "key2")),
        *((name, ctypes.c_float) for name in ("last", "norm", "divisor")),
    ]


@cache
def _library() -> ctypes.CDLL | None:
    """Return the compiled library; None if the installation has not built it from these sources."""
    found = find_spec("agents.trainer.apollo._kernel")
    if found is None or found.origin is None:
        return None
    library = ctypes.CDLL(found.origin)
    size = getattr(library, "apollo_matrix_bytes", None)
    if size is None or size() != ctypes.sizeof(_Matrix):  # an older library, with another struct
        return None
    library.apollo_sums.restype = ctypes.c_int64
    library.apollo_sums.argtypes = [ctypes.c_int64]
    library.apollo_run.restype = ctypes.c_int
    library.apollo_run.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_int]
    return library


def is_built() -> bool:
    """Return whether the library was built."""
    return _library() is not None


def suits(step: ParamStep) -> bool:
    """Return whether the library can process this matrix."""
    return is_built() and _is_readable(step.parameter) and _is_readable(step.gradient)


def _is_readable(tensor: torch.Tensor) -> bool:
    """Return whether the library can read this tensor's memory."""
    return tensor.is_cpu and tensor.dtype in _KINDS and tensor.is_contiguous()


class CompiledBatch:
    """Any number of matrices of any shape, whose step the library computes."""

    def __init__(self, steps: Sequence[ParamStep]) -> None:
        library = _library()
        assert library is not None
        self._steps = sorted(steps, key=lambda step: step.parameter.numel() < LARGE)
        self._large = sum(step.parameter.numel() >= LARGE for step in steps)
        channels = [max(step.parameter.shape) for step in self._steps]
        sums = [library.apollo_sums(count) for count in channels]
        # Attributes, so that these tensors live as long as the pointers to them.
        self._scales = torch.split(torch.empty(sum(channels)), channels)
        self._sums = torch.split(torch.empty(sum(sums), dtype=torch.float64), sums)
        self._run = library.apollo_run
        places = zip(self._steps, self._scales, self._sums, strict=True)
        self._matrices = (_Matrix * len(steps))(*(_matrix(*place) for place in places))

    def measure(self) -> None:
        """Advance the moments and compute every channel's scale; writes no weight."""
        self._passes(0, len(self._matrices), MEASURE)
        self._store_norms()

    def apply(self) -> None:
        """Write the measured updates to the weights."""
        self._passes(0, len(self._matrices), APPLY)
        for step in self._steps:
            step.round_master()

    def step(self) -> None:
        """Measure and apply in one call, so that gradients of small matrices stay in a cache in between."""
        self._passes(0, self._large, MEASURE)
        self._passes(0, self._large, APPLY)
        self._passes(self._large, len(self._matrices) - self._large, MEASURE | APPLY)
        self._store_norms()
        for step in self._steps:
            step.round_master()

    def norms(self) -> list[torch.Tensor]:
        """Return the norms of the updates, (matrices,) float32."""
        pairs = zip(self._steps, self._matrices, strict=True)
        return [torch.tensor([step.group.rate * matrix.norm for step, matrix in pairs])]

    def divisors(self) -> list[torch.Tensor]:
        """Return the divisors of the norm-growth limiter, (matrices,) float32."""
        return [torch.tensor([m.divisor for m in self._matrices])]

    def _passes(self, first: int, count: int, passes: int) -> None:
        start = ctypes.byref(self._matrices, first * ctypes.sizeof(_Matrix))
        if count and self._run(start, count, passes, torch.get_num_threads()):
            raise TrainerFault(
                "no memory for a step of the optimizer; end other programs, or train a smaller model"
            )

    def _store_norms(self) -> None:
        for step, matrix in zip(self._steps, self._matrices, strict=True):
            step.state["norm"].fill_(matrix.last)


def _matrix(step: ParamStep, scales: torch.Tensor, sums: torch.Tensor) -> _Matrix:
    """Return the struct that describes one matrix's step to the library."""
    projection, state, weight = step.projection, step.state, step.written
    assert projection is not None
    group, coefficients = step.group, projection.coefficients
    beta1, beta2 = group.betas
    form = projection.panels if coefficients is None else coefficients
    narrow = weight.dtype == torch.bfloat16
    return _Matrix(  # in the order of its fields: by name it would take about three times as long
        *(
            step.gradient.data_ptr(),
            weight.data_ptr(),
            state["moment1"].data_ptr(),
            state["moment2"].data_ptr(),
        ),
        *(form.data_ptr(), scales.data_ptr(), sums.data_ptr(), *step.parameter.shape, projection.rank),
        *(coefficients is None, group.tensor_wise, step.gradient.dtype == torch.bfloat16, narrow),
        *(beta1, beta2, 1 - beta1, 1 - beta2, group.eps, step.alpha, group.growth_limit),
        *(group.rate, group.decay),
        *(*(keys_of(step.key) if narrow else (0, 0)), state["norm"].item()),
    )
