"""The compiled form of Apollo's passes over matrices on the CPU (`kernel.c`), reached by ctypes.

Invariant: the numbers are those of `batches.Matrices` to float32 rounding, and the same whatever the number of
threads. Where the library was not built (no compiler, another system) or a matrix does not suit it, `suits` says
no and torch does the work. Knows no optimizer: it is given what one step needs.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import torch

from agents.trainer.apollo.batches import ParamStep
from agents.trainer.apollo.rounding import keys_of
from corpus.errors import TrainerFault

MEASURE, APPLY = 1, 2
LARGE = 1 << 22
"""Elements from which on a matrix is shared out among the threads, pass by pass: no cache holds its gradient
until the second pass anyway."""
_KINDS = (torch.float32, torch.bfloat16)


class _Matrix(ctypes.Structure):
    """As in kernel.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("gradient", "weight", "moment1", "moment2", "projection")),
        *((name, ctypes.c_void_p) for name in ("scales", "sums")),
        *((name, ctypes.c_int64) for name in ("rows", "cols", "rank")),
        *((name, ctypes.c_int32) for name in ("dense", "tensor_wise", "gradient_bf16", "weight_bf16")),
        *(
            (name, ctypes.c_float)
            for name in ("beta1", "beta2", "rest1", "rest2", "eps", "alpha", "growth_limit")
        ),
        *((name, ctypes.c_float) for name in ("rate", "decay")),
        *((name, ctypes.c_uint32) for name in ("key1", "key2")),
        *((name, ctypes.c_float) for name in ("last", "norm", "divisor")),
    ]


@cache
def _library() -> ctypes.CDLL | None:
    """The library, if it was built when the package was installed, and from these sources."""
    found = find_spec("agents.trainer.apollo._kernel")
    if found is None or found.origin is None:
        return None
    library = ctypes.CDLL(found.origin)
    size = getattr(library, "apollo_matrix_bytes", None)
    if size is None or size() != ctypes.sizeof(_Matrix):  # of an older version: its numbers would be nonsense
        return None
    library.apollo_sums.restype = ctypes.c_int64
    library.apollo_sums.argtypes = [ctypes.c_int64]
    library.apollo_run.restype = ctypes.c_int
    library.apollo_run.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_int]
    return library


def is_built() -> bool:
    """Whether there is a library."""
    return _library() is not None


def suits(share: ParamStep) -> bool:
    """Whether the library can take this matrix."""
    return is_built() and _lies_well(share.parameter) and _lies_well(share.gradient)


def _lies_well(tensor: torch.Tensor) -> bool:
    return tensor.is_cpu and tensor.dtype in _KINDS and tensor.is_contiguous()


class CompiledMatrices:
    """Any number of matrices of any shape: measured, then written."""

    def __init__(self, shares: Sequence[ParamStep]) -> None:
        library = _library()
        assert library is not None
        self._shares = sorted(shares, key=lambda share: share.parameter.numel() < LARGE)
        self._large = sum(share.parameter.numel() >= LARGE for share in shares)
        channels = [max(share.parameter.shape) for share in self._shares]
        sums = [library.apollo_sums(count) for count in channels]
        # Named, so that they live as long as the pointers to them.
        self._scales = torch.split(torch.empty(sum(channels)), channels)
        self._sums = torch.split(torch.empty(sum(sums), dtype=torch.float64), sums)
        self._run = library.apollo_run
        places = zip(self._shares, self._scales, self._sums, strict=True)
        self._matrices = (_Matrix * len(shares))(*(_matrix(*place) for place in places))

    def measure(self) -> None:
        """Advance the moments and find every channel's scale; writes no weight."""
        self._passes(0, len(self._matrices), MEASURE)
        self._remember()

    def apply(self) -> None:
        """Write the weights."""
        self._passes(0, len(self._matrices), APPLY)
        for share in self._shares:
            share.round_master()

    def step(self) -> None:
        """Both, with the gradient of all but the large ones still in a thread's cache for the second pass."""
        self._passes(0, self._large, MEASURE)
        self._passes(0, self._large, APPLY)
        self._passes(self._large, len(self._matrices) - self._large, MEASURE | APPLY)
        self._remember()
        for share in self._shares:
            share.round_master()

    def norms(self) -> list[torch.Tensor]:
        """Norms of the updates, float32 scalars."""
        return [
            torch.tensor(
                [share.terms.rate * m.norm for share, m in zip(self._shares, self._matrices, strict=True)]
            )
        ]

    def divisors(self) -> list[torch.Tensor]:
        """What the limiter divided by."""
        return [torch.tensor([m.divisor for m in self._matrices])]

    def _passes(self, first: int, count: int, passes: int) -> None:
        start = ctypes.byref(self._matrices, first * ctypes.sizeof(_Matrix))
        if count and self._run(start, count, passes, torch.get_num_threads()):
            raise TrainerFault(
                "no memory for a step of the optimizer; end other programs, or train a smaller model"
            )

    def _remember(self) -> None:
        for share, matrix in zip(self._shares, self._matrices, strict=True):
            share.state["norm"].fill_(matrix.last)


def _matrix(share: ParamStep, scales: torch.Tensor, sums: torch.Tensor) -> _Matrix:
    """What the library is told of one matrix."""
    projection, state, weight = share.projection, share.state, share.written
    assert projection is not None
    terms, coefficients = share.terms, projection.coefficients
    beta1, beta2 = terms.betas
    form = projection.panels if coefficients is None else coefficients
    narrow = weight.dtype == torch.bfloat16
    return _Matrix(  # in the order of its fields: by name it would take some three times as long
        *(
            share.gradient.data_ptr(),
            weight.data_ptr(),
            state["moment1"].data_ptr(),
            state["moment2"].data_ptr(),
        ),
        *(form.data_ptr(), scales.data_ptr(), sums.data_ptr(), *share.parameter.shape, projection.rank),
        *(coefficients is None, terms.tensor_wise, share.gradient.dtype == torch.bfloat16, narrow),
        *(
            beta1,
            beta2,
            1 - beta1,
            1 - beta2,
            terms.eps,
            share.alpha,
            terms.growth_limit,
            terms.rate,
            terms.decay,
        ),
        *(*(keys_of(share.key) if narrow else (0, 0)), state["norm"].item()),
    )
