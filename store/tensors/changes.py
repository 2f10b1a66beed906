"""The change of weights by an update: how many values changed and by how much, by layer, kind and head.

Invariant: pure NumPy over raw tensors, one piece of one tensor at a time. Norms are computed from sums of
squares in float64. This module knows nothing about files or the ledger. Of a model it knows only the names
and shapes of the tensors.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import prod, sqrt
from typing import Literal

import numpy as np

from store.tensors.numbers import PIECE, Array, bits, values
from store.tensors.raw import RawTensor, Tensors

_LAYER = re.compile(r"\.layers\.(\d+)\.")
_KINDS = (
    (re.compile(r"norm\."), "norms"),
    (re.compile(r"(?:embed_tokens|lm_head)\."), "embeddings"),
    (re.compile(r"\.self_attn\.([qkvo])_proj\."), "attention {}"),
    (re.compile(r"\.mlp\.(?:.*\.)?(gate|up|down)_proj\."), "mlp {}"),
)
"""Patterns and kinds: a tensor has the kind of the first pattern that its name matches."""


@dataclass(frozen=True, kw_only=True)
class Heads:
    """The numbers of query heads and of key-value heads in a model's attention."""

    query: int
    key_value: int

    def of(self, kind: str) -> int:
        """Return the number of heads in a tensor of this kind; 0 for a kind without heads."""
        return {"attention q": self.query, "attention o": self.query}.get(
            kind, self.key_value if kind in ("attention k", "attention v") else 0
        )


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The reported numbers of an extent."""

    elements: int
    """Number of all elements."""
    changed: int
    """Number of elements whose bits differ."""
    share: float
    """Share of the elements that changed, 0 to 1."""
    norm: float
    """Euclidean norm of the change."""
    relative: float | None
    """Norm of the change, divided by the norm of the values before; None if these were all zero."""


@dataclass(kw_only=True)
class Extent:
    """The extent of the change of some values; `+` adds the extents of different values."""

    elements: int = 0
    """Number of all elements."""
    changed: int = 0
    """Number of elements whose bits differ."""
    moved: float = 0.0
    """Sum of the squares of the differences."""
    before: float = 0.0
    """Sum of the squares of the values before."""

    def __add__(self, other: "Extent") -> "Extent":
        return Extent(
            elements=self.elements + other.elements,
            changed=self.changed + other.changed,
            moved=self.moved + other.moved,
            before=self.before + other.before,
        )

    @property
    def relative(self) -> float | None:
        """Norm of the change, divided by the norm of the values before; None if these were all zero."""
        return sqrt(self.moved / self.before) if self.before else None

    @property
    def figures(self) -> Figures:
        """The reported numbers of this extent."""
        return Figures(
            elements=self.elements,
            changed=self.changed,
            share=self.changed / max(1, self.elements),
            norm=sqrt(self.moved),
            relative=self.relative,
        )


@dataclass(frozen=True, kw_only=True)
class Change:
    """The change of one tensor."""

    name: str
    layer: int | None
    """Number of the tensor's layer; None for a tensor outside the layers."""
    kind: str
    extent: Extent
    heads: list[Extent] = field(default_factory=list)
    """The extent of each head: of rows for q, k and v, of columns for o; [] without heads."""


def layer_of(name: str) -> int | None:
    """Return the number of the layer that a tensor belongs to; None for a tensor outside the layers."""
    match = _LAYER.search(name)
    return int(match[1]) if match else None


def kind_of(name: str) -> str:
    """Return the kind of the tensor with this name.

    Kinds are attention q, k, v and o; mlp gate, up and down; embeddings, norms and other.
    """
    for pattern, kind in _KINDS:
        if match := pattern.search(name):
            return kind.format(*match.groups())
    return "other"


def changes(before: Tensors, after: Tensors, heads: Heads | None = None) -> Iterator[Change]:
    """Yield the change of every tensor that both sides have with the same shape, sorted by name.

    Args:
        before: The weights before the update.
        after: The weights after it.
        heads: The model's numbers of heads; None if they are not known.
    """
    for name in sorted(before.keys() & after.keys()):
        if before[name].shape == after[name].shape:
            yield _change(name, before[name], after[name], heads)


def unlike(before: Tensors, after: Tensors) -> list[str]:
    """Return the names of the tensors that only one side has, or that have different shapes."""
    both = before.keys() & after.keys()
    return sorted({*before, *after} - {name for name in both if before[name].shape == after[name].shape})


def summed(changed: Iterable[Change], key: Literal["layer", "kind"]) -> dict[str | int | None, Extent]:
    """Return the sum of the extents of these changes, by layer or by kind."""
    sums: dict[str | int | None, Extent] = {}
    for change in changed:
        group = getattr(change, key)
        sums[group] = sums.get(group, Extent()) + change.extent
    return sums


def _change(name: str, before: RawTensor, after: RawTensor, heads: Heads | None) -> Change:
    kind = kind_of(name)
    by_row = kind != "attention o"
    rows, columns = before.shape[0] if before.shape else 1, prod(before.shape[1:])
    sums = _sums(before, after, rows, columns, by_row=by_row)
    elements = rows * columns
    count = heads.of(kind) if heads else 0
    parts: list[Extent] = []
    if count and (rows if by_row else columns) % count == 0:
        parts = [_extent(elements // count, part) for part in sums.reshape(3, count, -1).sum(axis=2).T]
    whole = _extent(elements, sums.sum(axis=1))
    return Change(name=name, layer=layer_of(name), kind=kind, extent=whole, heads=parts)


def _extent(elements: int, sums: Array) -> Extent:
    return Extent(elements=elements, changed=int(sums[0]), moved=float(sums[1]), before=float(sums[2]))


def _sums(before: RawTensor, after: RawTensor, rows: int, columns: int, *, by_row: bool) -> Array:
    """Return sums over each row of a tensor, or over each column: float64, `(3, rows)` or `(3, columns)`.

    The three sums are the number of changed values, the squares of the changes, and the squares of the values
    before.

    Args:
        before: The tensor before the update.
        after: The tensor after it.
        rows: Number of rows.
        columns: Number of columns: the values of a row.
        by_row: Whether to sum over each row and not over each column.
    """
    sums = np.zeros((3, rows if by_row else columns))
    squares = "ij,ij->i" if by_row else "ij,ij->j"
    deep = max(1, PIECE // max(1, columns))
    for top in range(0, rows, deep):
        bottom = min(top + deep, rows)
        place, shape = (top * columns, bottom * columns), (bottom - top, columns)
        old = values(before, *place).astype(np.float64).reshape(shape)
        new = values(after, *place).astype(np.float64).reshape(shape)
        if before.dtype == after.dtype:
            differs = (bits(before, *place) != bits(after, *place)).reshape(shape)
        else:
            differs = old != new
        sums[:, slice(top, bottom) if by_row else slice(None)] += (
            np.count_nonzero(differs, axis=int(by_row)),
            np.einsum(squares, new - old, new - old),
            np.einsum(squares, old, old),
        )
    return sums
