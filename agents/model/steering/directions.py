"""Names and strengths of concepts, turned into directions in the residual stream: one direction per layer.

A name is that of a concept in a home's `readout/`, or that of a behaviour with a vector in
`readout/behaviours/`. If both have the same name, it means the concept.

Invariant: a strength is a distance in the residual stream, along the concept's unit vector, after the layer
`ConceptVectors.steered` of the concept's file. This module knows nothing about torch or requests.
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
"""Folder of the behaviours' vectors, inside the folder of the concepts' vectors."""
HOW_TO_MAKE = (
    "`nightschool readout train` makes concept vectors, `nightschool readout behaviour NAME` a behaviour's"
)


def by_name(files: Iterable[ConceptVectors | None]) -> dict[str, ConceptVectors]:
    """Return for each name the vectors that contain it; of several files with a name, the first counts."""
    vectors_of: dict[str, ConceptVectors] = {}
    for vectors in files:
        if vectors is not None:
            vectors_of |= {name: vectors for name in vectors.concepts if name not in vectors_of}
    return vectors_of


def load_known(directory: Path) -> dict[str, ConceptVectors]:
    """Return for each concept and behaviour of a home the vectors that contain it.

    Args:
        directory: The home's folder `readout`.

    Raises:
        UsageError: The home has no vectors.
    """
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
    """Return the strengths of a request by concept, without those of 0.

    Args:
        steer: The request's `steer`, not yet checked.
        known: The vectors by name.

    Raises:
        UsageError: `steer` is not an object of known names and allowed strengths.
    """
    if isinstance(steer, Mapping):
        for name in steer:
            require_concept(name, known)
    return check_strengths(steer, list(known))


def layer_offsets(
    strengths: Mapping[str, float], known: Mapping[str, ConceptVectors]
) -> dict[int, NDArray[np.float32]]:
    """Return for each steered layer the sum of its concepts' unit vectors times their strengths.

    Args:
        strengths: The strengths by concept.
        known: The vectors by name.

    Returns:
        Vectors `(hidden_size,)` by layer number.
    """
    offsets: dict[int, NDArray[np.float32]] = {}
    for name in sorted(strengths):
        vectors = require_concept(name, known)
        if strengths[name]:
            layer = vectors.layers[vectors.steered]
            offset = np.float32(strengths[name]) * vectors.direction(name)
            offsets[layer] = offsets[layer] + offset if layer in offsets else offset
    return offsets


def to_directions(strengths: Mapping[str, float], directory: Path) -> tuple[Direction, ...]:
    """Return the directions of these strengths, in the order of their layers, as the trainer takes them.

    `directory` is the home's folder `readout`; it is not read if all strengths are 0.
    """
    if not any(strengths.values()):
        return ()
    offsets = layer_offsets(strengths, load_known(directory))
    return tuple(
        Direction(layer=layer, data=offsets[layer].astype(np.float32).tobytes()) for layer in sorted(offsets)
    )


def digest(directions: Iterable[Direction]) -> str:
    """Return the id of these directions: 16 hexadecimal digits of their SHA-256; "" if there are none."""
    parts = b"".join(b"%d:" % direction.layer + direction.data for direction in directions)
    return hashlib.sha256(parts).hexdigest()[:16] if parts else ""
