"""Task vectors: what training added to weights, and how several of them are added to others.

A task vector is the difference of two checkpoints, tau = theta_to - theta_from (Ilharco et al. 2022, arXiv
2212.04089, section 2). Two ways of merging, each with a weight for every vector, that may be negative:

    arithmetic   theta + sum_t w_t tau_t                     (arXiv 2212.04089, section 2: addition, negation, scaling)
    ties         theta + the TIES mean of w_t tau_t          (Yadav et al. 2023, arXiv 2306.01708, algorithm 1)

Invariant: pure, and one tensor at a time. Arithmetic is in float32, in the order of the vectors; a result is
rounded to the nearest value of the stored type, to even in a tie. An element that no vector moves keeps its
bits. Knows no file, no ledger and no torch.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpus.errors import GateRefused, IntegrityFault
from store.task_vectors.recipe import Extent
from store.tensors.raw import RawTensor

Floats = NDArray[np.float32]
METHODS = ("arithmetic", "ties")
DENSITY = 0.2
"""Share of each tensor's elements that TIES keeps, as its authors do (arXiv 2306.01708)."""
_quiet = np.errstate(over="ignore", invalid="ignore")  # what is not finite is refused at the end, by `added`
_PATTERNS = {"F32": np.uint32, "BF16": np.uint16, "F16": np.uint16}
"""Types that can be merged, and the integers of as many bits."""


def extent(change: Floats) -> Extent:
    """How much this change is."""
    wide = change.astype(np.float64)
    return Extent(
        norm=float(np.sqrt(wide @ wide)), changed=int(np.count_nonzero(change)), elements=change.size
    )


@_quiet
def arithmetic(vectors: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """sum_t w_t tau_t (arXiv 2212.04089, section 2)."""
    total = np.zeros_like(vectors[0])
    for vector, weight in zip(vectors, weights, strict=True):
        total += np.float32(weight) * vector
    return total


def trim(vector: Floats, density: float) -> Floats:
    """The density share of the elements that is largest in magnitude, the rest 0 (arXiv 2306.01708, algorithm 1,
    step 1, for each tensor by itself).

    Their number is density * n to the nearest whole, halves up, at least 1; of equals at the edge the first stay.
    """
    keep = max(1, int(density * vector.size + 0.5))
    if keep >= vector.size:
        return vector
    size = np.abs(vector)
    edge = np.partition(size, vector.size - keep)[vector.size - keep]
    kept = size > edge
    kept[np.flatnonzero(size == edge)[: keep - int(np.count_nonzero(kept))]] = True
    return np.where(kept, vector, np.float32(0))


@_quiet
def ties(vectors: Sequence[Floats], weights: Sequence[float], density: float) -> Floats:
    """The TIES merge of these vectors (arXiv 2306.01708, algorithm 1).

    A weight enters before the election: with t_t = w_t trim(tau_t), the elected sign is sgn(sum_t t_t) (step 2),
    and the result is the mean of those t_t that have it (step 3, the disjoint mean: zeros and the outvoted are
    not counted; the paper's lambda is a common factor of the weights). Where the sum is 0 there is no sign, and
    the result is 0. A weight below 0 votes for the opposite of what its vector did. One vector alone is trimmed and
    scaled.
    """
    scaled = [
        np.float32(weight) * trim(vector, density) for vector, weight in zip(vectors, weights, strict=True)
    ]
    elected: Floats = np.sign(arithmetic(scaled, [1.0] * len(scaled)))
    total: Floats = np.zeros_like(elected)
    count: Floats = np.zeros_like(elected)
    for vector in scaled:
        agrees = np.sign(vector) == elected
        total += np.where(agrees, vector, np.float32(0))
        count += agrees
    return (total / np.maximum(count, 1)).astype(np.float32)


def combined(vectors: Sequence[Floats], weights: Sequence[float], method: str, density: float) -> Floats:
    """What these vectors come to by this method; density is that of TIES."""
    return ties(vectors, weights, density) if method == "ties" else arithmetic(vectors, weights)


def values(raw: RawTensor) -> Floats:
    """A tensor's numbers, flat."""
    pattern = np.frombuffer(raw.data, _pattern(raw))
    if raw.dtype == "BF16":
        return (pattern.astype(np.uint32) << 16).view(np.float32)
    return pattern.view(np.float32) if raw.dtype == "F32" else pattern.view(np.float16).astype(np.float32)


def rounded(numbers: Floats, dtype: str) -> NDArray[Any]:
    """The bit patterns of the nearest numbers of this type, to even in a tie; what is too large is infinite."""
    if dtype == "F32":
        return numbers.view(np.uint32)
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return numbers.astype(np.float16).view(np.uint16)
    bits = numbers.view(np.uint32)
    near = (bits + (np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1)))) >> 16
    return np.where(np.isnan(numbers), (bits >> 16) | 0x40, near).astype(np.uint16)


@_quiet
def added(tensor: RawTensor, change: Floats) -> RawTensor:
    """The tensor moved by this change, in its own type; refused when it is not finite then."""
    moved = values(tensor) + change
    bits = np.where(change == 0, np.frombuffer(tensor.data, _pattern(tensor)), rounded(moved, tensor.dtype))
    result = RawTensor(dtype=tensor.dtype, shape=tensor.shape, data=bits.tobytes())
    if not np.isfinite(values(result)).all():
        raise GateRefused("the merged weights are not finite; nothing was kept: choose smaller weights")
    return result


@_quiet
def difference(name: str, end: Mapping[str, RawTensor], start: Mapping[str, RawTensor]) -> Floats:
    """tau of one tensor, flat."""
    if name not in end or name not in start or end[name].shape != start[name].shape:
        raise IntegrityFault(
            f"{name} is not the same tensor in both checkpoints: they are of different models"
        )
    return values(end[name]) - values(start[name])


Ends = tuple[Mapping[str, RawTensor], Mapping[str, RawTensor]]
"""The weights where a vector begins, and where it ends."""


def changes(
    names: Sequence[str], ends: Sequence[Ends], weights: Sequence[float], method: str, density: float
) -> Iterator[tuple[str, Floats]]:
    """What the vectors between these ends come to, one tensor after the other."""
    for name in names:
        vectors = [difference(name, end, start) for start, end in ends]
        yield name, combined(vectors, weights, method, density)


def _pattern(raw: RawTensor) -> type[Any]:
    if raw.dtype not in _PATTERNS:
        raise GateRefused(f"weights of type {raw.dtype} cannot be merged; {', '.join(_PATTERNS)} can")
    return _PATTERNS[raw.dtype]
