"""Activation steering in the embedded server: from a request's `steer` to additions in the forward pass.

    steer    {concept: strength}, as on a user's own vLLM;
             for many conversations also a list, with one such object or null for each

Names and strengths mean what `steering/directions.py` says. Offsets are added to the residual stream.

Invariant: a request that cannot be steered as asked is refused with a sentence, never answered without
steering. A replaced file of vectors counts from the next request on. A row that is not steered gets zeros, so
its numbers keep every bit; a batch in which no row is steered adds nothing. This module knows nothing about
routes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from agents.model.steering.concept_vectors import ConceptVectors, ConceptVectorsWatcher
from agents.model.steering.directions import (
    BEHAVIOURS,
    HOW_TO_MAKE,
    by_name,
    layer_offsets,
    requested_strengths,
)
from corpus.aliases import Json
from corpus.errors import UsageError

Offsets = Mapping[int, torch.Tensor]
"""One row's additions to each of its tokens, float32 `(hidden_size,)`, by the layer (from 0) that they
follow."""


class Steering:
    """A home's concept vectors, as requests are steered by them."""

    def __init__(self, directory: Path | None, *, hidden_size: int, layers: int, model: str = "") -> None:
        """Watch the vectors in `directory`, the home's `readout`; None refuses all steering.

        `hidden_size`, the number of `layers` and `model`, its digest, are those of the served model.
        """
        folders = [directory, directory / BEHAVIOURS] if directory is not None else []
        # A look costs two system calls, and only a steered request looks: each of them may.
        self._watchers = [
            ConceptVectorsWatcher(folder, hidden_size=hidden_size, layers=layers, model=model, every=0.0)
            for folder in folders
        ]

    def offsets(self, body: Json) -> Offsets | None:
        """Return the offsets that a request asks for; None for none."""
        steer = body.get("steer")
        return None if steer is None else _offsets(steer, self._available())

    def offsets_each(self, body: Json, count: int) -> list[Offsets | None]:
        """Return the offsets for each of `count` conversations."""
        steer = body.get("steer")
        if not isinstance(steer, list):
            return [self.offsets(body)] * count
        if len(steer) != count:
            raise UsageError(f"steer, given as a list, must have {count} values, one for each conversation")
        available = self._available() if any(row is not None for row in steer) else {}
        return [None if row is None else _offsets(row, available) for row in steer]

    def _available(self) -> dict[str, ConceptVectors]:
        """Return the vectors in the files as they are now, by the concepts in them."""
        for watcher in self._watchers:
            watcher.look()
        available = by_name(watcher.vectors for watcher in self._watchers)
        if not available:
            reason = (
                self._watchers[0].reason if self._watchers else "this server was started without --readout"
            )
            raise UsageError(f"nothing can be steered by: {reason}. {HOW_TO_MAKE}")
        return available


class BatchOffsets:
    """The offsets of a batch's rows, by layer."""

    def __init__(self, rows: Sequence[Offsets]) -> None:
        """Stack the offsets of the rows; an empty sequence means that no row is steered."""
        self._by_layer: dict[int, torch.Tensor] = {}
        for layer in sorted({layer for row in rows for layer in row}):
            zeros = torch.zeros_like(next(row[layer] for row in rows if layer in row))
            self._by_layer[layer] = torch.stack([row.get(layer, zeros) for row in rows])

    def __bool__(self) -> bool:
        """Return whether any row is steered."""
        return bool(self._by_layer)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers after which something is added."""
        return tuple(self._by_layer)

    def rows(self, layer: int) -> torch.Tensor:
        """Return each row's offset after this layer, float32 `(rows, hidden_size)`."""
        return self._by_layer[layer]

    def add(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        """Return the stream of one token a row, `(rows, hidden_size)`, with its offsets added."""
        return x + self._by_layer[layer] if layer in self._by_layer else x

    def add_packed(self, layer: int, x: torch.Tensor, first: int, lengths: Sequence[int]) -> torch.Tensor:
        """Return packed tokens `(tokens, hidden_size)` with the offsets of the rows from `first` on added.

        lengths: tokens of each of those rows.
        """
        if layer not in self._by_layer:
            return x
        rows = self._by_layer[layer][first : first + len(lengths)]
        return x + rows.repeat_interleave(torch.tensor(lengths), dim=0)

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows alone, int64 `(kept,)`."""
        self._by_layer = {layer: offsets[rows] for layer, offsets in self._by_layer.items()}


def _offsets(steer: Any, available: Mapping[str, ConceptVectors]) -> Offsets | None:
    """Return the offsets of one row; None when every strength is 0."""
    offsets = layer_offsets(requested_strengths(steer, available), available)
    return {layer: torch.from_numpy(offset) for layer, offset in offsets.items()} or None
