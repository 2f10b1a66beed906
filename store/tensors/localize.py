"""The place of an update in the weights: whether it is local or spread, and along which concepts it writes.

Weights are divided into parts: by layer, by kind of weight, by tensor and by attention head. For each
division the result says how few parts hold `MOST` of the squared change, and what share of all values these
parts have. Weights that write into the residual stream (the outputs of the attention and of the MLP) are also
compared with the vectors of the concepts whose readings moved:

    times chance = |v' dW|^2 / |dW|^2 * hidden size            v: a concept's unit vector, dW: the change

`times chance` is 1 for a change in a random direction, and the hidden size for a change along the vector
alone.

Invariant: pure NumPy over raw tensors, a piece at a time. This module knows nothing about files or the
ledger.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Generic, TypeVar

import numpy as np

from corpus.aliases import Json
from store.tensors.changes import Change, Extent, Heads, changes, kind_of, layer_of, summed
from store.tensors.numbers import PIECE, Array, values
from store.tensors.raw import RawTensor, Tensors

MOST = 0.8
"""Share of the squared change that the counted parts hold together."""
LOCAL, SPREAD = 0.25, 0.6
"""Limits of the verdict. Take the share of all values that the tensors with `MOST` of the change have. The
update is local if this share is at most `LOCAL`, and spread if it is at least `SPREAD`."""
TOP = 5
"""Most parts that a result names."""
WRITING = ("attention o", "mlp down")
"""Kinds of weight whose rows are directions of the residual stream."""


@dataclass(frozen=True, kw_only=True)
class LayerPart:
    """The part of a change that is in one layer."""

    layer: int | None
    """Number of the layer; None for the tensors outside the layers."""
    share: float
    """Share of the squared change that is in this part."""
    relative: float | None
    """As in `store.tensors.changes.Extent`."""


@dataclass(frozen=True, kw_only=True)
class KindPart:
    """The part of a change that is in one kind of weight; the fields are as in `LayerPart`."""

    kind: str
    share: float
    relative: float | None


@dataclass(frozen=True, kw_only=True)
class TensorPart:
    """The part of a change that is in one tensor; the fields are as in `LayerPart`."""

    tensor: str
    share: float
    relative: float | None


@dataclass(frozen=True, kw_only=True)
class HeadPart:
    """The part of a change that is in one attention head of a tensor; the fields are as in `LayerPart`."""

    layer: int | None
    kind: str
    head: int
    share: float
    relative: float | None


Part = TypeVar("Part", LayerPart, KindPart, TensorPart, HeadPart)


@dataclass(frozen=True, kw_only=True)
class Concentration(Generic[Part]):
    """The concentration of a change: how few parts of one division hold most of it."""

    parts: int
    """Number of all parts."""
    hold_most: int
    """Smallest number of parts that hold `MOST` of the squared change."""
    values: float
    """Share of all values that these parts have."""
    first: list[Part]
    """The largest of these parts, `TOP` at most."""


@dataclass(frozen=True, kw_only=True)
class Along:
    """How much the change of one tensor writes along one concept's vector: see the module."""

    concept: str
    tensor: str
    times_chance: float


@dataclass(frozen=True, kw_only=True)
class Located:
    """The place of an update in the weights, by each division, and the concepts along which it writes."""

    layers: Concentration[LayerPart]
    kinds: Concentration[KindPart]
    tensors: Concentration[TensorPart]
    heads: Concentration[HeadPart]
    along: list[Along]

    @property
    def verdict(self) -> str:
        """`local`, `mixed` or `spread`; `unchanged` if no value changed."""
        if not self.tensors.hold_most:
            return "unchanged"
        share = self.tensors.values
        return "local" if share <= LOCAL else "spread" if share >= SPREAD else "mixed"


def locate(
    before: Tensors,
    after: Tensors,
    heads: Heads | None = None,
    *,
    vectors: Mapping[str, Array],
    layer: int,
) -> Located:
    """Return the place in the weights of the change between two versions of them.

    Args:
        before: The weights before the update.
        after: The weights after it.
        heads: The model's numbers of heads; None if they are not known.
        vectors: Unit vectors of concepts, by concept, each `(hidden_size,)`.
        layer: The layer after which these concepts are read.
    """
    changed = list(changes(before, after, heads))
    return Located(
        layers=_concentration(
            LayerPart, [({"layer": number}, extent) for number, extent in summed(changed, "layer").items()]
        ),
        kinds=_concentration(
            KindPart, [({"kind": kind}, extent) for kind, extent in summed(changed, "kind").items()]
        ),
        tensors=_concentration(TensorPart, [({"tensor": change.name}, change.extent) for change in changed]),
        heads=_concentration(HeadPart, [part for change in changed for part in _heads(change)]),
        along=_along_vectors(before, after, vectors, layer),
    )


def _heads(change: Change) -> list[tuple[Json, Extent]]:
    return [
        ({"layer": change.layer, "kind": change.kind, "head": number}, extent)
        for number, extent in enumerate(change.heads)
    ]


def _concentration(kind: type[Part], parts: Iterable[tuple[Json, Extent]]) -> Concentration[Part]:
    """Return how few of these parts hold `MOST` of the squared change.

    Args:
        kind: The class of the records to return, one for each of the largest parts.
        parts: For each part the fields that name it, and how much of it changed.
    """
    ordered = sorted(parts, key=lambda part: (-part[1].moved, str(part[0])))
    moved = sum(extent.moved for _, extent in ordered)
    elements = sum(extent.elements for _, extent in ordered)
    held, largest = 0.0, []
    for name, extent in ordered:
        if held >= MOST * moved:
            break
        held += extent.moved
        largest.append((name, extent))
    return Concentration(
        parts=len(ordered),
        hold_most=len(largest),
        values=round(sum(extent.elements for _, extent in largest) / elements, 4) if elements else 0.0,
        first=[
            kind(**name, share=round(extent.moved / moved, 4), relative=extent.relative)
            for name, extent in largest[:TOP]
        ],
    )


def _along_vectors(before: Tensors, after: Tensors, vectors: Mapping[str, Array], layer: int) -> list[Along]:
    """Return the tensors whose change writes most along these vectors, `TOP` at most, the strongest first.

    Tensors of later layers than `layer` do not count, because the concepts are read before them.
    """
    if not vectors:
        return []
    directions = np.stack(list(vectors.values())).astype(np.float64)
    writers: list[Along] = []
    for name in sorted(before.keys() & after.keys()):
        own_layer = layer_of(name)
        fits = before[name].shape == after[name].shape and before[name].shape[:1] == directions.shape[1:]
        if kind_of(name) in WRITING and own_layer is not None and own_layer <= layer and fits:
            times_chance = _times_chance(before[name], after[name], directions)
            writers += [
                Along(concept=concept, tensor=name, times_chance=round(float(times), 2))
                for concept, times in zip(vectors, times_chance, strict=True)
            ]
    return sorted(writers, key=lambda writer: (-writer.times_chance, writer.tensor))[:TOP]


def _times_chance(before: RawTensor, after: RawTensor, directions: Array) -> Array:
    """Return `times chance` of each direction for one tensor; `directions` are unit vectors, `(n, rows)`."""
    rows, columns = before.shape[0], prod(before.shape[1:])
    written, moved = np.zeros((len(directions), columns)), 0.0
    deep = max(1, PIECE // max(1, columns))
    for top in range(0, rows, deep):
        bottom = min(top + deep, rows)
        place = (top * columns, bottom * columns)
        change = values(after, *place).astype(np.float64) - values(before, *place).astype(np.float64)
        change = change.reshape(bottom - top, columns)
        written += directions[:, top:bottom] @ change
        moved += float(np.sum(change**2))
    result: Array = np.sum(written**2, axis=1) / moved * rows if moved else np.zeros(len(directions))
    return result
