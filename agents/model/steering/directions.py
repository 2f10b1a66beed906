"""Which vectors of a home a name means, and what strengths come to: one direction a layer.

Concepts are those of `readout/`; besides them there are the behaviours whose vectors lie in `readout/behaviours/`. A
concept comes before a behaviour of the same name. Invariant: a strength counts in units of the residual stream, along
the unit vector, after the layer that the file says (`Vectors.steered`). Knows no torch and no request.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.model.steering.concept_vectors import Vectors, read
from agents.model.steering.direction import Direction
from agents.model.steering.limits import checked
from corpus.errors import UsageError

BEHAVIOURS = "behaviours"
"""Folder, under the concepts' own, of the behaviours' vectors."""
MAKE = "`nightschool readout train` makes concept vectors, `nightschool readout behaviour NAME` a behaviour's"


def named(found: Iterable[Vectors | None]) -> dict[str, Vectors]:
    """The vectors by the names in them; of two of one name, the first."""
    known: dict[str, Vectors] = {}
    for vectors in found:
        if vectors is not None:
            known |= {name: vectors for name in vectors.concepts if name not in known}
    return known


def known(directory: Path) -> dict[str, Vectors]:
    """What can be steered by in a home whose concept vectors lie here; raises `UsageError` where nothing can."""
    found = named([read(directory), read(directory / BEHAVIOURS)])
    if not found:
        raise UsageError(f"there are no concept vectors in {directory} yet. {MAKE}")
    return found


def require(name: str, among: Mapping[str, Vectors]) -> Vectors:
    """The vectors that this name is in."""
    if name not in among:
        raise UsageError(f"there is no concept {name!r}; there are {', '.join(among)}. {MAKE}")
    return among[name]


def wanted(asked: Any, among: Mapping[str, Vectors]) -> dict[str, float]:
    """What a request asks to be steered by, checked; nothing for a strength of 0. Raises `UsageError`."""
    if isinstance(asked, Mapping):
        for name in asked:
            require(name, among)
    return checked(asked, list(among))


def along(strengths: Mapping[str, float], among: Mapping[str, Vectors]) -> dict[int, NDArray[np.float32]]:
    """Strengths times unit vectors, added up by layer: `(hidden_size,)` each; nothing for a strength of 0."""
    moved: dict[int, NDArray[np.float32]] = {}
    for name in sorted(strengths):
        vectors = require(name, among)
        if strengths[name]:
            layer, part = (
                vectors.layers[vectors.steered],
                np.float32(strengths[name]) * vectors.direction(name),
            )
            moved[layer] = moved[layer] + part if layer in moved else part
    return moved


def directions(strengths: Mapping[str, float], directory: Path) -> tuple[Direction, ...]:
    """The same as what the trainer is told; `directory` holds the home's vectors."""
    if not any(strengths.values()):
        return ()
    moved = along(strengths, known(directory))
    return tuple(
        Direction(layer=layer, data=moved[layer].astype(np.float32).tobytes()) for layer in sorted(moved)
    )


def digest(found: Iterable[Direction]) -> str:
    """Names these directions: 16 hexadecimal digits of a SHA-256; "" for none."""
    parts = b"".join(b"%d:" % one.layer + one.data for one in found)
    return hashlib.sha256(parts).hexdigest()[:16] if parts else ""
