"""Activation steering in the embedded server: from a request's `steer` to additions in the forward pass.

    steer    {concept: strength}, as on a user's own vLLM;
             for many conversations also a list, with one such object or null for each

`steering/directions.py` defines names and strengths. A row is one prompt with its answer. Its offsets are the
vectors that the forward pass adds to the residual stream of each of its tokens.

Invariant: a request that cannot be steered as it says is refused with a sentence, never answered without
steering. A new file of vectors counts from the next request on. Nothing is added to the tokens of other
rows. This module knows nothing about routes.
"""

from collections.abc import Mapping
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
"""The offsets of one row by layer number (from 0): float32 `(hidden_size,)`, added to the residual stream of
each token after that layer."""


class Steering:
    """The reader of requests' `steer`: it turns concepts and strengths into offsets, by a home's vectors."""

    def __init__(self, directory: Path | None, *, hidden_size: int, layers: int, model: str = "") -> None:
        """Watch the files of concept vectors.

        Args:
            directory: The home's folder `readout`; None refuses all steering.
            hidden_size: Width of the served model's residual stream.
            layers: Number of the served model's layers.
            model: Digest of the served model; "" if it is not known.
        """
        folders = [directory, directory / BEHAVIOURS] if directory is not None else []
        # A look costs two system calls, and only steered requests look, so no pause between looks is needed.
        self._watchers = [
            ConceptVectorsWatcher(folder, hidden_size=hidden_size, layers=layers, model=model, every=0.0)
            for folder in folders
        ]

    def offsets(self, body: Json) -> Offsets | None:
        """Return the offsets that a request's `steer` stands for; None if the request is not steered."""
        steer = body.get("steer")
        return None if steer is None else _offsets(steer, self._available())

    def offsets_each(self, body: Json, count: int) -> list[Offsets | None]:
        """Return the offsets for each of a request's `count` conversations; None where it is not steered."""
        steer = body.get("steer")
        if not isinstance(steer, list):
            return [self.offsets(body)] * count
        if len(steer) != count:
            raise UsageError(f"steer, given as a list, must have {count} values, one for each conversation")
        available = self._available() if any(row is not None for row in steer) else {}
        return [None if row is None else _offsets(row, available) for row in steer]

    def _available(self) -> dict[str, ConceptVectors]:
        """Return the vectors that the files hold now, by concept; raise `UsageError` if there are none."""
        for watcher in self._watchers:
            watcher.look()
        available = by_name(watcher.vectors for watcher in self._watchers)
        if not available:
            reason = (
                self._watchers[0].reason if self._watchers else "this server was started without --readout"
            )
            raise UsageError(f"nothing can be steered by: {reason}. {HOW_TO_MAKE}")
        return available


def _offsets(steer: Any, available: Mapping[str, ConceptVectors]) -> Offsets | None:
    """Return the offsets for one `steer`, by the `available` vectors; None when every strength is 0."""
    offsets = layer_offsets(requested_strengths(steer, available), available)
    return {layer: torch.from_numpy(offset) for layer, offset in offsets.items()} or None
