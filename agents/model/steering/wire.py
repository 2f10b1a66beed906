"""The three forms in which a request to steer travels.

    client      steer: {concept: strength}
    engine      extra_args["steer"] = {"vectors": digest, "add": {concept: strength}}     (vLLM)
    trainer     one `Direction` a layer

A strength counts in units of the residual stream: how far each token moves along the concept's unit vector.

Invariant: a hook in the engine sees checked strengths only, and two requests share a cached prefix only if
they are steered alike, with the same vectors. This module imports neither torch nor numpy nor vLLM, so that a
process that only passes a request on stays light.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from corpus.errors import UsageError

MAX_STRENGTH = 1e4
"""Largest strength of a request: beyond it a 16-bit type overflows, and a value that is not finite spoils a
cache that other requests use."""


@dataclass(frozen=True, kw_only=True)
class Direction:
    """The addition to the residual stream of every token after one layer."""

    layer: int
    """From 0."""
    data: bytes = field(repr=False)
    """float32, (hidden,)."""


def check_strengths(asked: Any, concepts: Sequence[str]) -> dict[str, float]:
    """Return the strengths by concept, sorted, without those of 0; raise `UsageError` for anything else."""
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
    """Return the engine's form of checked strengths; `digest` identifies the vectors."""
    return {"vectors": digest, "add": dict(strengths)}


def engine_strengths(extra: Any) -> dict[str, float]:
    """Return the strengths in a request's extra arguments; {} unless `engine_arguments` made them."""
    steer = extra.get("steer") if isinstance(extra, Mapping) else None
    strengths = steer.get("add") if isinstance(steer, Mapping) else None
    if not isinstance(strengths, Mapping):
        return {}
    if not all(isinstance(s, float) and isfinite(s) and abs(s) <= MAX_STRENGTH for s in strengths.values()):
        return {}
    return dict(strengths)


def salt_part(request: Any) -> str:
    """Return the part of a request's cache salt (see `vllm/salt.py`) that its steering contributes."""
    extra = request.sampling_params.extra_args if request.sampling_params is not None else None
    return json.dumps(extra["steer"], sort_keys=True) if extra and engine_strengths(extra) else ""
