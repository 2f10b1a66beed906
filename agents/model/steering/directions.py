"""Which vectors of a home a name means, and what strengths come to: one direction a layer.

Concepts are those of `readout/`; besides them there are the behaviours whose vectors lie in
`readout/behaviours/`. A concept comes before a behaviour of the same name. Invariant: a strength counts in
units of the residual stream, along the unit vector, after the layer that the file says (`Vectors.steered`).
Knows no torch and no request.
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
"""Folder, under the concepts' own, of the behaviours' vectors."""
HOW_TO_MAKE = (
    "`nightschool readout train` makes concept vectors, `nightschool readout behaviour NAME` a behaviour's"
)


def by_name(found: Iterable[ConceptVectors | None]) -> dict[str, ConceptVectors]:
    """The vectors by the names in them; of two of one name, the first."""
    load_known: dict[str, ConceptVectors] = {}
    for vectors in found:
        if vectors is not None:
            load_known |= {name: vectors for name in vectors.concepts if name not in load_known}
    return load_known


def load_known(directory: Path) -> dict[str, ConceptVectors]:
    """What can be steered by in a home whose concept vectors lie here; raises `UsageError` where nothing
    can."""
    found = by_name([read(directory), read(directory / BEHAVIOURS)])
    if not found:
        raise UsageError(f"there are no concept vectors in {directory} yet. {HOW_TO_MAKE}")
    return found


def require_concept(name: str, among: Mapping[str, ConceptVectors]) -> ConceptVectors:
    """The vectors that this name is in."""
    if name not in among:
        raise UsageError(f"there is no concept {name!r}; there are {', '.join(among)}. {HOW_TO_MAKE}")
    return among[name]


def requested_strengths(asked: Any, among: Mapping[str, ConceptVectors]) -> dict[str, float]:
    """What a request asks to be steered by, checked; nothing for a strength of 0. Raises `UsageError`."""
    if isinstance(asked, Mapping):
        for name in asked:
            require_concept(name, among)
    return check_strengths(asked, list(among))


def layer_offsets(
    strengths: Mapping[str, float], among: Mapping[str, ConceptVectors]
) -> dict[int, NDArray[np.float32]]:
    """Strengths times unit vectors, added up by layer: `(hidden_size,)` each; nothing for a strength of 0."""
    moved: dict[int, NDArray[np.float32]] = {}
    for name in sorted(strengths):
        vectors = require_concept(name, among)
        if strengths[name]:
            layer, part = (
                vectors.layers[vectors.steered],
                np.float32(strengths[name]) * vectors.direction(name),
            )
            moved[layer] = moved[layer] + part if layer in moved else part
    return moved


def to_directions(strengths: Mapping[str, float], directory: Path) -> tuple[Direction, ...]:
    """The same as what the trainer is told; `directory` holds the home's vectors."""
    if not any(strengths.values()):
        return ()
    moved = layer_offsets(strengths, load_known(directory))
    return tuple(
        Direction(layer=layer, data=moved[layer].astype(np.float32).tobytes()) for layer in sorted(moved)
    )


def digest(found: Iterable[Direction]) -> str:
    """Names these directions: 16 hexadecimal digits of a SHA-256; "" for none."""
    parts = b"".join(b"%d:" % one.layer + one.data for one in found)
    return hashlib.sha256(parts).hexdigest()[:16] if parts else ""
