"""The arithmetic of task vectors: their differences, their combinations, and adding them to other weights.

A task vector is the difference of two checkpoints, tau = theta_to - theta_from (Ilharco et al. 2022, arXiv
2212.04089, section 2). There are two methods to merge vectors. Both take a weight w for every vector, which
may be negative:

    arithmetic   theta + sum_t w_t tau_t            (arXiv 2212.04089, section 2: addition, negation, scaling)
    ties         theta + the TIES mean of w_t tau_t (Yadav et al. 2023, arXiv 2306.01708, algorithm 1)

Invariant: pure functions of one tensor at a time. Sums are computed in float32, in the order of the vectors.
A result is rounded to the nearest value of the stored type, to even in a tie. An element that no vector
changes keeps its bits. This module knows nothing about files, the ledger or torch.
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
_quiet = np.errstate(over="ignore", invalid="ignore")  # `added` refuses a result that is not finite


@dataclass(frozen=True, kw_only=True)
class Part:
    """One task vector of a merge."""

    start: str
    """Id of the checkpoint where it begins."""
    end: str
    """Id of the checkpoint where it ends."""
    weight: float
    """Factor of the vector in the merge; not 0. A weight below 0 unlearns."""


@dataclass(frozen=True, kw_only=True)
class ChangeSize:
    """The size of a change of weights; `+` adds the sizes of different tensors."""

    norm: float = 0.0
    """Euclidean norm of the change."""
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
    """Return the size of a change, given as a flat array."""
    wide = change.astype(np.float64)
    norm, changed = float(np.sqrt(wide @ wide)), int(np.count_nonzero(change))
    return ChangeSize(norm=norm, changed=changed, elements=change.size)


@_quiet
def arithmetic(vectors: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """Return the weighted sum of these vectors, sum_t w_t tau_t (arXiv 2212.04089, section 2)."""
    total = np.zeros_like(vectors[0])
    for vector, weight in zip(vectors, weights, strict=True):
        total += np.float32(weight) * vector
    return total


def trim(vector: Floats, density: float) -> Floats:
    """Return the vector with all but its largest elements set to 0.

    This is step 1 of algorithm 1 in arXiv 2306.01708, tensor by tensor. The number of elements that stay is
    density * n, rounded to the nearest whole number (halves up), and at least 1. Of several elements with the
    smallest magnitude that stays, the first stay.
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

    Each vector is trimmed and then multiplied with its weight: t_t = w_t trim(tau_t). For each element the
    elected sign is sgn(sum_t t_t) (step 2), and the result is the mean of those t_t that have this sign (step
    3; zeros and elements of the other sign do not count). If the sum is 0, no sign is elected, and the result
    is 0. So a vector with a weight below 0 votes for the opposite of its own sign, and a single vector is
    only trimmed and scaled. The paper's lambda is a common factor of the weights.
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
    """Return the combination of these vectors by a method of METHODS; only `ties` uses the density."""
    return ties(vectors, weights, density) if method == "ties" else arithmetic(vectors, weights)


def values(raw: RawTensor) -> Floats:
    """Return a tensor's numbers as a flat float32 array; raise GateRefused for a type not in MERGEABLE."""
    if raw.dtype not in MERGEABLE:
        raise GateRefused(f"weights of type {raw.dtype} cannot be merged; {', '.join(MERGEABLE)} can")
    return numbers.values(raw).astype(np.float32, copy=False)


@_quiet
def added(tensor: RawTensor, change: Floats) -> RawTensor:
    """Return a tensor plus a change, in the tensor's type; raise GateRefused unless the sum is finite."""
    moved = values(tensor) + change
    bits = np.where(change == 0, numbers.bits(tensor), numbers.rounded(moved, tensor.dtype))
    result = RawTensor(dtype=tensor.dtype, shape=tensor.shape, data=bits.tobytes())
    if not np.isfinite(values(result)).all():
        raise GateRefused("the merged weights are not finite; nothing was kept: choose smaller weights")
    return result


@_quiet
def difference(name: str, end: Tensors, start: Tensors) -> Floats:
    """Return the task vector of one tensor, `end` minus `start`, as a flat array."""
    if name not in end or name not in start or end[name].shape != start[name].shape:
        raise IntegrityFault(
            f"{name} is not the same tensor in both checkpoints, so they are of different models: "
            "name checkpoints of one model"
        )
    return values(end[name]) - values(start[name])


Ends = tuple[Tensors, Tensors]
"""The weights where a task vector starts, and those where it ends (in `changes`: start, end)."""


def changes(
    names: Sequence[str], ends: Sequence[Ends], weights: Sequence[float], method: str, density: float
) -> Iterator[tuple[str, Floats]]:
    """Yield the combination of task vectors: (name, flat change) of one tensor after the other.

    Args:
        names: Names of the tensors, in this order.
        ends: The weights where each task vector starts and ends.
        weights: The weight of each task vector.
        method: One of METHODS.
        density: The share of elements that TIES keeps.
    """
    for name in names:
        vectors = [difference(name, end, start) for start, end in ends]
        yield name, combined(vectors, weights, method, density)
