"""A behaviour's vector, from the attempts at its dreams: where passed answers part from failed ones.

The residual stream is taken after the first token of each answer, in a middle layer: there the answer is decided, and
hardly said. Passed and failed answers to one dream share their prompt, so their difference is the behaviour's and not
the request's; its mean over the dreams is the vector (CAA, arXiv 2312.06681, section 3, on the model's own answers).
Invariant: dreams whose answers all passed, or all failed, say nothing and are left out. Knows no ledger.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agents.model.client import ModelClient
from agents.model.internals import Internals
from agents.model.steering.concept_vectors import ConceptVectors, read, write
from agents.model.steering.directions import BEHAVIOURS
from agents.readout.vectors import Array
from corpus.aliases import Message
from corpus.errors import GateRefused, IntegrityFault

MINIMUM = 8
"""Dreams with passed and failed answers that a vector needs: with fewer, single requests show in it."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One judged answer to a dream."""

    dream_id: str
    messages: list[Message]
    text: str
    passed: bool


def telling(tried: Sequence[Tried]) -> list[Tried]:
    """The answers to dreams that have both kinds."""
    kinds: dict[str, set[bool]] = {}
    for one in tried:
        kinds.setdefault(one.dream_id, set()).add(one.passed)
    return [one for one in tried if len(kinds[one.dream_id]) == 2]


def require(name: str, tried: Sequence[Tried]) -> list[Tried]:
    """The answers that tell, or a `GateRefused` that says how many are missing."""
    found = telling(tried)
    dreams = len({one.dream_id for one in found})
    if dreams < MINIMUM:
        raise GateRefused(
            f"the vector of {name} needs {MINIMUM} dreams with passed and failed answers, and there are {dreams}: "
            f"{MINIMUM - dreams} are missing. `nightschool night` dreams of what the logs teach; with "
            "training.enabled = false it dreams and trains nothing"
        )
    return found


def direction(activations: Array, dreams: Sequence[str], passed: Sequence[bool]) -> Array:
    """The mean over dreams of passed minus failed, unit norm, `(hidden_size,)`.

    activations: `(n_answers, hidden_size)`; dreams and passed: of each answer. Each dream has both kinds.
    """
    ids, good = np.array(dreams), np.array(passed)
    parts = [
        activations[(ids == dream) & good].mean(axis=0) - activations[(ids == dream) & ~good].mean(axis=0)
        for dream in sorted(set(dreams))
    ]
    mean = np.mean(parts, axis=0)
    found: Array = mean / max(float(np.linalg.norm(mean)), 1e-12)
    return found


@dataclass(frozen=True, kw_only=True)
class BehaviourReader:
    """Reads behaviours' vectors off the served weights, and keeps them."""

    model: ModelClient
    trainer: Internals
    directory: Path
    """Where the concept vectors are; the behaviours' lie in a folder of theirs there."""
    digest: str
    """Of the model (`describe.digest_of`)."""

    async def extract(
        self, name: str, tried: Sequence[Tried], *, layers: int, weights_sha256: str
    ) -> ConceptVectors:
        """The vector of a behaviour, kept beside those of the others; `layers`: how many the model has."""
        asked = require(name, tried)
        layer = (layers - 1) // 2
        found = await self.trainer.activations(await self._begun(asked), layers=(layer,))
        values = (
            np.frombuffer(found.data, dtype=np.float32).astype(np.float64).reshape(found.texts, found.hidden)
        )
        vector = direction(values, [one.dream_id for one in asked], [one.passed for one in asked])
        return self._keep(name, vector.astype(np.float32), layer, weights_sha256)

    async def _begun(self, asked: Sequence[Tried]) -> list[list[int]]:
        """Tokens of each conversation up to the first of the answer."""
        prompts = await self.model.tokenize([one.messages for one in asked], add_generation_prompt=True)
        answered = [[*one.messages, {"role": "assistant", "content": one.text}] for one in asked]
        whole = await self.model.tokenize(answered, add_generation_prompt=False)
        return [tokens[: len(prompt) + 1] for prompt, tokens in zip(prompts, whole, strict=True)]

    def _keep(self, name: str, vector: Array, layer: int, weights_sha256: str) -> ConceptVectors:
        """Write the vector in place of its older self; those of another model go."""
        place = self.directory / BEHAVIOURS
        try:
            old = read(place, model=self.digest)
        except IntegrityFault:  # damaged, or another model's: all it had can be made again
            old = None
        rows = {}
        if old is not None and old.layers == (layer,) and old.hidden_size == len(vector):
            rows = dict(zip(old.concepts, old.values[0], strict=True))
        rows[name] = vector
        names = tuple(sorted(rows))
        values = np.stack([rows[one] for one in names])[None].astype(np.float32)
        made = ConceptVectors(
            concepts=names, layers=(layer,), values=values, weights_version=weights_sha256, model=self.digest
        )
        write(place, made)
        return made
