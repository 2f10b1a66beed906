"""What an update changed in the weights: how many values and by how much, by layer, by kind and by head.

Invariant: pure NumPy over raw tensors, one piece of one tensor at a time; norms are sums of squares in float64.
Knows no file, no ledger and no model but what the names and shapes of a causal language model tell.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod, sqrt

import numpy as np

from store.tensors.numbers import PIECE, Array, bits, values
from store.tensors.raw import RawTensor

_LAYER = re.compile(r"\.layers\.(\d+)\.")
_KINDS = (
    (re.compile(r"norm\."), "norms"),
    (re.compile(r"(?:embed_tokens|lm_head)\."), "embeddings"),
    (re.compile(r"\.self_attn\.([qkvo])_proj\."), "attention {}"),
    (re.compile(r"\.mlp\.(?:.*\.)?(gate|up|down)_proj\."), "mlp {}"),
)
"""The first that is found in a tensor's name says its kind; the input's and the output's embedding are one kind."""


@dataclass(frozen=True, kw_only=True)
class Heads:
    """How many heads the attention of a model has."""

    query: int
    key_value: int

    def of(self, kind: str) -> int:
        """How many heads share the tensors of this kind; 0 where heads have no part in it."""
        return {"attention q": self.query, "attention o": self.query}.get(
            kind, self.key_value if kind in ("attention k", "attention v") else 0
        )


@dataclass(kw_only=True)
class Extent:
    """How far some values moved. Add up with `+`."""

    elements: int = 0
    changed: int = 0
    """How many of them are not the same bits."""
    moved: float = 0.0
    """Sum of the squares of the differences."""
    before: float = 0.0
    """Sum of the squares of what they were."""

    def __add__(self, other: "Extent") -> "Extent":
        return Extent(
            elements=self.elements + other.elements,
            changed=self.changed + other.changed,
            moved=self.moved + other.moved,
            before=self.before + other.before,
        )

    @property
    def figures(self) -> dict[str, float | int | None]:
        """elements, changed, share (0 to 1), norm (L2) of the change, and relative: that by the norm before.

        relative is None where the values were all zero.
        """
        return {
            "elements": self.elements,
            "changed": self.changed,
            "share": self.changed / max(1, self.elements),
            "norm": sqrt(self.moved),
            "relative": sqrt(self.moved / self.before) if self.before else None,
        }


@dataclass(frozen=True, kw_only=True)
class Change:
    """One tensor, before and after."""

    name: str
    layer: int | None
    """None outside the layers."""
    kind: str
    extent: Extent
    heads: list[Extent] = field(default_factory=list)
    """Its heads' parts: rows of q, k and v, columns of o."""


def layer_of(name: str) -> int | None:
    """The number of the layer that a tensor belongs to, if any."""
    found = _LAYER.search(name)
    return int(found[1]) if found else None


def kind_of(name: str) -> str:
    """attention q, k, v or o; mlp gate, up or down; embeddings, norms, other."""
    for pattern, kind in _KINDS:
        if found := pattern.search(name):
            return kind.format(*found.groups())
    return "other"


def changes(
    before: Mapping[str, RawTensor], after: Mapping[str, RawTensor], heads: Heads | None = None
) -> Iterator[Change]:
    """The change of every tensor that both have in one shape, by name."""
    for name in sorted(before.keys() & after.keys()):
        if before[name].shape == after[name].shape:
            yield _change(name, before[name], after[name], heads)


def unlike(before: Mapping[str, RawTensor], after: Mapping[str, RawTensor]) -> list[str]:
    """The tensors that only one of the two has, or that have another shape in the other."""
    both = before.keys() & after.keys()
    return sorted({*before, *after} - {name for name in both if before[name].shape == after[name].shape})


def summed(found: Iterable[Change], key: str) -> dict[str | int | None, Extent]:
    """Extents added up by `layer` or by `kind`."""
    sums: dict[str | int | None, Extent] = {}
    for change in found:
        group = getattr(change, key)
        sums[group] = sums.get(group, Extent()) + change.extent
    return sums


def _change(name: str, before: RawTensor, after: RawTensor, heads: Heads | None) -> Change:
    kind = kind_of(name)
    wanted = heads.of(kind) if heads else 0
    by_row = kind != "attention o"
    rows, columns = before.shape[0] if before.shape else 1, prod(before.shape[1:])
    split = wanted if wanted and (rows if by_row else columns) % wanted == 0 else 0
    sums = _sums(before, after, rows, columns, by_row=by_row)
    size = rows * columns
    parts = (
        [_extent(size // split, part) for part in sums.reshape(3, split, -1).sum(axis=2).T] if split else []
    )
    whole = _extent(size, sums.sum(axis=1))
    return Change(name=name, layer=layer_of(name), kind=kind, extent=whole, heads=parts)


def _extent(elements: int, sums: Array) -> Extent:
    return Extent(elements=elements, changed=int(sums[0]), moved=float(sums[1]), before=float(sums[2]))


def _sums(before: RawTensor, after: RawTensor, rows: int, columns: int, *, by_row: bool) -> Array:
    """How many changed, and the squares of the changes and of what was there: of each row, or of each column.

    float64, `(3, rows)` or `(3, columns)`.
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
        found = (np.count_nonzero(differs, axis=int(by_row)), np.einsum(squares, new - old, new - old))
        sums[:, slice(top, bottom) if by_row else slice(None)] += (*found, np.einsum(squares, old, old))
    return sums
