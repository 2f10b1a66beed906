"""Task vectors: the change of weights by training, and how several of them are added to other weights.

A task vector is the difference of two checkpoints, tau = theta_to - theta_from (Ilharco et al. 2022, arXiv
2212.04089, section 2). There are two ways to merge vectors, each with a weight for every vector, which may
be negative:

    arithmetic   theta + sum_t w_t tau_t            (arXiv 2212.04089, section 2: addition, negation, scaling)
    ties         theta + the TIES mean of w_t tau_t (Yadav et al. 2023, arXiv 2306.01708, algorithm 1)

Invariant: pure, and one tensor at a time. Arithmetic is in float32, in the order of the vectors; a result is
rounded to the nearest value of the stored type, to even in a tie. An element that no vector moves keeps its
bits. This module knows nothing about files, the ledger or torch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import hypot

import numpy as np
from numpy.typing import NDArray

from corpus.errors import GateRefused, IntegrityFault
from store.tensors import numbers
from store.tensors.raw import RawTensor, Tensors

Floats = NDArray[np.float32]
METHODS = ("arithmetic", "ties")
DENSITY = 0.2
"""Share of each tensor's elements that TIES keeps, as its authors do (arXiv 2306.01708)."""
MERGEABLE = ("F32", "BF16", "F16")
"""Types of weights that can be merged."""
_quiet = np.errstate(over="ignore", invalid="ignore")  # `added` refuses what is not finite at the end


@dataclass(frozen=True, kw_only=True)
class Part:
    """One task vector of a merge."""

    start: str
    """Id of the checkpoint where it begins."""
    end: str
    """Id of the checkpoint where it ends."""
    weight: float
    """Not 0; a weight below 0 unlearns."""


@dataclass(frozen=True, kw_only=True)
class ChangeSize:
    """How much a change of weights is; sizes of different tensors are added with `+`."""

    norm: float = 0.0
    """Euclidean."""
    changed: int = 0
    """Number of elements that differ."""
    elements: int = 0

    def __add__(self, other: "ChangeSize") -> "ChangeSize":
        return ChangeSize(
            norm=hypot(self.norm, other.norm),
            changed=self.changed + other.changed,
            elements=self.elements + other.elements,
        )


def size_of(change: Floats) -> ChangeSize:
    """Measure a change, flat."""
    wide = change.astype(np.float64)
    norm, changed = float(np.sqrt(wide @ wide)), int(np.count_nonzero(change))
    return ChangeSize(norm=norm, changed=changed, elements=change.size)


@_quiet
def arithmetic(vectors: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """Return sum_t w_t tau_t (arXiv 2212.04089, section 2)."""
    total = np.zeros_like(vectors[0])
    for vector, weight in zip(vectors, weights, strict=True):
        total += np.float32(weight) * vector
    return total


def trim(vector: Floats, density: float) -> Floats:
    """Set all but the largest elements to 0 (arXiv 2306.01708, algorithm 1, step 1, tensor by tensor).

    The number that stays is density * n, rounded to the nearest whole number, halves up, at least 1. Of
    elements of equal magnitude at the edge the first stay.
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
    """Return the TIES merge of these vectors (arXiv 2306.01708, algorithm 1).

    Weights apply before the election. With t_t = w_t trim(tau_t), the elected sign is sgn(sum_t t_t) (step
    2), and the result is the mean of those t_t that have it (step 3, the disjoint mean: zeros and outvoted
    elements do not count; the paper's lambda is a common factor of the weights). Where the sum is 0 there
    is no sign, and the result is 0. A vector with a weight below 0 votes for the opposite of its own sign.
    A single vector is trimmed and scaled.
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
    """Combine these vectors by this method; the density is for TIES."""
    return ties(vectors, weights, density) if method == "ties" else arithmetic(vectors, weights)


def values(raw: RawTensor) -> Floats:
    """Return a tensor's numbers, flat; raise GateRefused for a type that cannot be merged."""
    if raw.dtype not in MERGEABLE:
        raise GateRefused(f"weights of type {raw.dtype} cannot be merged; {', '.join(MERGEABLE)} can")
    return numbers.values(raw).astype(np.float32, copy=False)


@_quiet
def added(tensor: RawTensor, change: Floats) -> RawTensor:
    """Add a change to a tensor, in the tensor's own type; raise GateRefused if the result is not finite."""
    moved = values(tensor) + change
    bits = np.where(change == 0, numbers.bits(tensor), numbers.rounded(moved, tensor.dtype))
    result = RawTensor(dtype=tensor.dtype, shape=tensor.shape, data=bits.tobytes())
    if not np.isfinite(values(result)).all():
        raise GateRefused("the merged weights are not finite; nothing was kept: choose smaller weights")
    return result


@_quiet
def difference(name: str, end: Tensors, start: Tensors) -> Floats:
    """Return tau of one tensor, flat."""
    if name not in end or name not in start or end[name].shape != start[name].shape:
        raise IntegrityFault(
            f"{name} is not the same tensor in both checkpoints, so they are of different models: "
            "name checkpoints of one model"
        )
    return values(end[name]) - values(start[name])


Ends = tuple[Tensors, Tensors]
"""The weights where a task vector begins, and where it ends."""


def changes(
    names: Sequence[str], ends: Sequence[Ends], weights: Sequence[float], method: str, density: float
) -> Iterator[tuple[str, Floats]]:
    """Yield the combination of the vectors between these ends, one tensor after the other."""
    for name in names:
        vectors = [difference(name, end, start) for start, end in ends]
        yield name, combined(vectors, weights, method, density)
