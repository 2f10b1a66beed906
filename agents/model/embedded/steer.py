"""What a request to the embedded server may be steered by, from the client's `steer` to what is added to its rows.

    steer    {concept: strength}, as on a user's own vLLM; for many conversations also a list, one entry (or null) each

What names and strengths mean says `directions.py`. Invariant: what cannot be done is refused with a sentence, never
left out; files that are replaced count from the next request on. Knows no route.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from agents.model.embedded.push import Push
from agents.model.steering.concept_vectors import Vectors, Watched
from agents.model.steering.directions import BEHAVIOURS, MAKE, along, named, wanted
from corpus.errors import UsageError


class Steering:
    """The vectors of a home, as the server's requests are steered by them."""

    def __init__(self, directory: Path | None, *, hidden_size: int, layers: int, model: str = "") -> None:
        """`directory` is the home's `readout`; None: nothing can be steered by. The others are the model's, `model`
        its digest."""
        places = [directory, directory / BEHAVIOURS] if directory is not None else []
        # A look is two system calls, and only a request that is steered looks.
        self._watched = [
            Watched(place, hidden_size=hidden_size, layers=layers, model=model, every=0.0) for place in places
        ]

    def push(self, body: Mapping[str, Any]) -> Push | None:
        """What a request's rows are steered by; None for nothing. Raises `UsageError`."""
        asked = body.get("steer")
        return None if asked is None else self._of(asked, self._known())

    def push_each(self, body: Mapping[str, Any], count: int) -> list[Push | None]:
        """The same for each of `count` conversations."""
        asked = body.get("steer")
        if not isinstance(asked, list):
            return [self.push(body)] * count
        if len(asked) != count:
            raise UsageError(f"steer, given as a list, must have {count} values, one for each conversation")
        known = self._known() if any(one is not None for one in asked) else {}
        return [None if one is None else self._of(one, known) for one in asked]

    def _known(self) -> dict[str, Vectors]:
        """The vectors by the names that are in them."""
        for watched in self._watched:
            watched.look()
        known = named(watched.vectors for watched in self._watched)
        if not known:
            reason = self._watched[0].reason if self._watched else "this server was started without --readout"
            raise UsageError(f"nothing can be steered by: {reason}. {MAKE}")
        return known

    def _of(self, asked: Any, known: Mapping[str, Vectors]) -> Push | None:
        added = wanted(asked, known)
        return {layer: torch.from_numpy(moved) for layer, moved in along(added, known).items()} or None
