"""The three forms of a request to steer: a client's, that of vLLM's engine, and the trainer's.

    client      steer: {concept: strength}
    engine      extra_args["steer"] = {"vectors": digest, "add": {concept: strength}}     (vLLM)
    trainer     one `Direction` for each layer

A strength is a distance in the residual stream: how far each token moves along the concept's unit vector.

Invariant: a hook in the engine sees checked strengths only, and two requests share a cached prefix only if
they have the same strengths and vectors. This module imports neither torch nor numpy nor vLLM, so that a
process that only passes a request on needs little memory.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from corpus.errors import UsageError

MAX_STRENGTH = 1e4
"""Largest strength of a request. A larger one overflows a 16-bit type, and a value that is not finite spoils
the cache that other requests use."""


@dataclass(frozen=True, kw_only=True)
class Direction:
    """A vector that is added to the residual stream of every token after one layer."""

    layer: int
    """Number of the layer, from 0."""
    data: bytes = field(repr=False)
    """The vector: float32, `(hidden,)`."""


def check_strengths(asked: Any, concepts: Sequence[str]) -> dict[str, float]:
    """Return a request's strengths by concept, sorted by name, without those of 0.

    Args:
        asked: The request's `steer`, not yet checked.
        concepts: The names that it may have.

    Raises:
        UsageError: `asked` is not an object of these names and of numbers up to MAX_STRENGTH.
    """
    if not isinstance(asked, Mapping):
        raise UsageError('steer is an object of concepts and strengths, such as {"asking": 2.0}')
    for concept, strength in asked.items():
        if concept not in concepts:
            raise UsageError(f"there is no concept {concept!r}; there are {', '.join(concepts)}")
        if isinstance(strength, bool) or not isinstance(strength, int | float) or not isfinite(strength):
            raise UsageError(f"the strength of {concept!r} is not a finite number")
        if abs(strength) > MAX_STRENGTH:
            raise UsageError(
                f"the strength of {concept!r} is over {MAX_STRENGTH:g}, the most that is allowed"
            )
    return {concept: float(asked[concept]) for concept in sorted(asked) if asked[concept]}


def engine_arguments(strengths: Mapping[str, float], digest: str) -> dict[str, Any]:
    """Return checked strengths in the engine's form; `digest` is the id of the concept vectors."""
    return {"vectors": digest, "add": dict(strengths)}


def engine_strengths(extra: Any) -> dict[str, float]:
    """Return the strengths by concept in the `extra_args` of a request to vLLM's engine.

    Returns {} for arguments that `engine_arguments` cannot have made, because clients may send their own.
    """
    steer = extra.get("steer") if isinstance(extra, Mapping) else None
    strengths = steer.get("add") if isinstance(steer, Mapping) else None
    if not isinstance(strengths, Mapping):
        return {}
    if not all(isinstance(s, float) and isfinite(s) and abs(s) <= MAX_STRENGTH for s in strengths.values()):
        return {}
    return dict(strengths)


def salt_part(request: Any) -> str:
    """Return the part of a request's cache salt that its steering adds; "" if the request is not steered.

    `request` is vLLM's `EngineCoreRequest`; `vllm/salt.py` explains the salt.
    """
    extra = request.sampling_params.extra_args if request.sampling_params is not None else None
    return json.dumps(extra["steer"], sort_keys=True) if extra and engine_strengths(extra) else ""
