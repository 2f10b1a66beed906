"""The directions that concept names and strengths stand for: one direction a layer.

Concepts are those of a home's `readout/`, and besides them the behaviours whose vectors lie in
`readout/behaviours/`. A concept takes precedence over a behaviour of the same name.

Invariant: a strength counts in units of the residual stream, along the unit vector, after the layer that the
file names (`ConceptVectors.steered`). This module knows nothing about torch or requests.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.model.steering.concept_vectors import ConceptVectors, read
from agents.model.steering.wire import Direction, check_strengths
from corpus.errors import UsageError

BEHAVIOURS = "behaviours"
"""Folder of the behaviours' vectors, below that of the concepts."""
HOW_TO_MAKE = (
    "`nightschool readout train` makes concept vectors, `nightschool readout behaviour NAME` a behaviour's"
)


def by_name(files: Iterable[ConceptVectors | None]) -> dict[str, ConceptVectors]:
    """Return the vectors of these files by the names in them; the first file that has a name wins."""
    vectors_of: dict[str, ConceptVectors] = {}
    for vectors in files:
        if vectors is not None:
            vectors_of |= {name: vectors for name in vectors.concepts if name not in vectors_of}
    return vectors_of


def load_known(directory: Path) -> dict[str, ConceptVectors]:
    """Return a home's vectors by name; raise `UsageError` if there are none."""
    known = by_name([read(directory), read(directory / BEHAVIOURS)])
    if not known:
        raise UsageError(f"there are no concept vectors in {directory} yet. {HOW_TO_MAKE}")
    return known


def require_concept(name: str, known: Mapping[str, ConceptVectors]) -> ConceptVectors:
    """Return the vectors that contain this name; raise `UsageError` if none do."""
    if name not in known:
        raise UsageError(f"there is no concept {name!r}; there are {', '.join(known)}. {HOW_TO_MAKE}")
    return known[name]


def requested_strengths(steer: Any, known: Mapping[str, ConceptVectors]) -> dict[str, float]:
    """Return a request's checked strengths, without those of 0; raise `UsageError` for anything else."""
    if isinstance(steer, Mapping):
        for name in steer:
            require_concept(name, known)
    return check_strengths(steer, list(known))


def layer_offsets(
    strengths: Mapping[str, float], known: Mapping[str, ConceptVectors]
) -> dict[int, NDArray[np.float32]]:
    """Return strengths times unit vectors, `(hidden_size,)` each, summed by layer."""
    offsets: dict[int, NDArray[np.float32]] = {}
    for name in sorted(strengths):
        vectors = require_concept(name, known)
        if strengths[name]:
            layer = vectors.layers[vectors.steered]
            offset = np.float32(strengths[name]) * vectors.direction(name)
            offsets[layer] = offsets[layer] + offset if layer in offsets else offset
    return offsets


def to_directions(strengths: Mapping[str, float], directory: Path) -> tuple[Direction, ...]:
    """Return the directions for the trainer, in the order of their layers; `directory` holds the vectors."""
    if not any(strengths.values()):
        return ()
    offsets = layer_offsets(strengths, load_known(directory))
    return tuple(
        Direction(layer=layer, data=offsets[layer].astype(np.float32).tobytes()) for layer in sorted(offsets)
    )


def digest(directions: Iterable[Direction]) -> str:
    """Return the id of these directions: 16 hexadecimal digits of a SHA-256; "" for none."""
    parts = b"".join(b"%d:" % direction.layer + direction.data for direction in directions)
    return hashlib.sha256(parts).hexdigest()[:16] if parts else ""
