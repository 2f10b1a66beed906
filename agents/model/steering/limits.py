"""What a request may ask to be steered by, from the client's field to the engine's arguments.

    client    steer: {concept: strength}
    engine    extra_args["steer"] = {"vectors": digest, "add": {concept: strength}}

A strength counts in units of the residual stream: how far each token is moved along the concept's unit vector.
Invariant: what the hook takes has been checked; two requests share a cached prefix only if they are steered alike,
with the same vectors. Light: knows neither torch nor vLLM.
"""

import json
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from corpus.errors import UsageError

STRONGEST = 1e4
"""Most that a request may be steered by: beyond, a 16-bit type overflows, and what is not finite spoils a cache that
others use."""


def checked(asked: Any, concepts: Sequence[str]) -> dict[str, float]:
    """What is to be added, by concept, in one order; nothing for a strength of 0. Raises `UsageError`."""
    if not isinstance(asked, Mapping):
        raise UsageError('steer is an object of concepts and strengths, such as {"asking": 2.0}')
    for concept, strength in asked.items():
        if concept not in concepts:
            raise UsageError(f"there is no concept {concept!r}; there are {', '.join(concepts)}")
        if isinstance(strength, bool) or not isinstance(strength, int | float) or not isfinite(strength):
            raise UsageError(f"the strength of {concept!r} is not a finite number")
        if abs(strength) > STRONGEST:
            raise UsageError(f"the strength of {concept!r} is over {STRONGEST:g}, the most that is allowed")
    return {concept: float(asked[concept]) for concept in sorted(asked) if asked[concept]}


def for_engine(added: Mapping[str, float], digest: str) -> dict[str, Any]:
    """What the engine is told; `digest` names the vectors."""
    return {"vectors": digest, "add": dict(added)}


def strengths(extra: Any) -> dict[str, float]:
    """What a request's extra arguments steer it by; {} for anything that is not `for_engine`'s."""
    asked = extra.get("steer") if isinstance(extra, Mapping) else None
    added = asked.get("add") if isinstance(asked, Mapping) else None
    if not isinstance(added, Mapping):
        return {}
    if not all(isinstance(s, float) and isfinite(s) and abs(s) <= STRONGEST for s in added.values()):
        return {}
    return dict(added)


def salt_part(request: Any) -> str:
    """What the prefixes of a request depend on by its steering: a part of its salt (see `salt.py`)."""
    extra = request.sampling_params.extra_args if request.sampling_params is not None else None
    return json.dumps(extra["steer"], sort_keys=True) if extra and strengths(extra) else ""
