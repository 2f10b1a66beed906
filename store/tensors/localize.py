"""Where an update lies in the weights: is it local or spread, and does it write what was read?

Of the squared change of all weights, how few parts hold `MOST` of it, and how large a share of the values those parts
are: by layers, by kinds of weight, by tensors and by heads. Weights that write into the residual stream (attention's
and the MLP's output) are also held against the vectors of the concepts whose readings moved:

    times chance = |v' dW|^2 / |dW|^2 * hidden size            v: a concept's unit vector, dW: the change

which is 1 for a change in any direction, and the hidden size for one that writes along the vector alone.

Invariant: pure NumPy over raw tensors, a piece at a time. Knows no file and no ledger.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpus.aliases import Json
from store.tensors.changes import Change, Extent, kind_of, layer_of, summed
from store.tensors.numbers import PIECE, values
from store.tensors.raw import RawTensor

Numbers = NDArray[Any]
MOST = 0.8
"""Share of the squared change that the parts are counted for."""
LOCAL, SPREAD = 0.25, 0.6
"""An update is local whose tensors with `MOST` of the change are at most this share of the values, and spread from
the second on; the values are those of the tensors that could have changed at all."""
TOP = 5
"""Parts that are named."""
WRITING = ("attention o", "mlp down")
"""Kinds of weight whose rows are directions of the residual stream."""


def parts_of(found: Sequence[Change]) -> Json:
    """By layers, kinds, tensors and heads: how many parts there are, how few hold `MOST`, and the first of them."""
    layers, kinds = summed(found, "layer"), summed(found, "kind")
    groups: dict[str, list[tuple[Json, Extent]]] = {
        "layers": [({"layer": layer}, extent) for layer, extent in layers.items()],
        "kinds": [({"kind": kind}, extent) for kind, extent in kinds.items()],
        "tensors": [({"tensor": change.name}, change.extent) for change in found],
        "heads": [
            ({"layer": change.layer, "kind": change.kind, "head": number}, extent)
            for change in found
            for number, extent in enumerate(change.heads)
        ],
    }
    return {name: _concentration(rows) for name, rows in groups.items()}


def verdict_on(parts: Json) -> str:
    """local, mixed or spread; "unchanged" where nothing moved."""
    tensors = parts["tensors"]
    if not tensors["hold_most"]:
        return "unchanged"
    share = tensors["values"]
    return "local" if share <= LOCAL else "spread" if share >= SPREAD else "mixed"


def along(
    before: Mapping[str, RawTensor],
    after: Mapping[str, RawTensor],
    vectors: Mapping[str, Numbers],
    *,
    layer: int,
) -> list[Json]:
    """Which weights write along these concepts' unit vectors, `(hidden_size,)`, most first: up to the layer that the
    vectors lie after, for what comes behind it cannot be read there."""
    if not vectors:
        return []
    names, directions = list(vectors), np.stack(list(vectors.values())).astype(np.float64)
    rows: list[Json] = []
    for name in sorted(before.keys() & after.keys()):
        at = layer_of(name)
        fits = before[name].shape == after[name].shape and before[name].shape[:1] == directions.shape[1:]
        if kind_of(name) in WRITING and at is not None and at <= layer and fits:
            found = _along(before[name], after[name], directions)
            rows += [
                {"concept": concept, "tensor": name, "times_chance": round(float(times), 2)}
                for concept, times in zip(names, found, strict=True)
            ]
    return sorted(rows, key=lambda row: (-float(row["times_chance"]), str(row["tensor"])))[:TOP]


def _along(before: RawTensor, after: RawTensor, directions: Numbers) -> Numbers:
    """Times chance, of each direction `(n, rows)`."""
    rows, columns = before.shape[0], prod(before.shape[1:])
    written, whole = np.zeros((len(directions), columns)), 0.0
    deep = max(1, PIECE // max(1, columns))
    for top in range(0, rows, deep):
        bottom = min(top + deep, rows)
        place = (top * columns, bottom * columns)
        change = values(after, *place).astype(np.float64) - values(before, *place).astype(np.float64)
        change = change.reshape(bottom - top, columns)
        written += directions[:, top:bottom] @ change
        whole += float(np.sum(change**2))
    found: Numbers = np.sum(written**2, axis=1) / whole * rows if whole else np.zeros(len(directions))
    return found


def _concentration(rows: Iterable[tuple[Json, Extent]]) -> Json:
    """How few of these hold `MOST` of the squared change."""
    ordered = sorted(rows, key=lambda row: (-row[1].moved, str(row[0])))
    whole = sum(extent.moved for _, extent in ordered)
    size = sum(extent.elements for _, extent in ordered)
    held, few = 0.0, []
    for name, extent in ordered:
        if held >= MOST * whole:
            break
        held += extent.moved
        few.append((name, extent))
    return {
        "parts": len(ordered),
        "hold_most": len(few),
        "values": round(sum(extent.elements for _, extent in few) / size, 4) if size else 0.0,
        "first": [
            {**name, "share": round(extent.moved / whole, 4), "relative": extent.figures["relative"]}
            for name, extent in few[:TOP]
        ],
    }
