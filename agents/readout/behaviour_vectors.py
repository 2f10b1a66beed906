"""A behaviour's vector, from the attempts at its dreams: the difference of passed and failed answers.

The residual stream is read after the first token of each answer, in a middle layer: there the answer is
decided, and hardly begun. Passed and failed answers to one dream share their prompt, so their difference
belongs to the behaviour and not to the request; its mean over the dreams is the vector (CAA, arXiv
2312.06681, section 3, on the model's own answers).

Invariant: dreams whose answers all passed, or all failed, are left out. This module knows nothing about the
ledger.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agents.model.client import ModelClient
from agents.model.internals import Internals
from agents.model.steering.concept_vectors import ConceptVectors, read, write
from agents.model.steering.directions import BEHAVIOURS
from agents.readout.concept_vectors import Array
from corpus.aliases import Message
from corpus.errors import GateRefused, IntegrityFault

MINIMUM = 8
"""Dreams with both passed and failed answers that a vector needs: with fewer, single requests show in it."""


@dataclass(frozen=True, kw_only=True)
class JudgedAnswer:
    """One judged answer to a dream."""

    dream_id: str
    messages: list[Message]
    text: str
    passed: bool


def contrasting(answers: Sequence[JudgedAnswer]) -> list[JudgedAnswer]:
    """Return the answers to dreams that have both passed and failed answers."""
    outcomes: dict[str, set[bool]] = {}
    for answer in answers:
        outcomes.setdefault(answer.dream_id, set()).add(answer.passed)
    return [answer for answer in answers if len(outcomes[answer.dream_id]) == 2]


def require(name: str, answers: Sequence[JudgedAnswer]) -> list[JudgedAnswer]:
    """Return the contrasting answers, or raise GateRefused if they are of too few dreams."""
    usable = contrasting(answers)
    dreams = len({answer.dream_id for answer in usable})
    if dreams < MINIMUM:
        raise GateRefused(
            f"the vector of {name} needs {MINIMUM} dreams with passed and failed answers, and there are "
            f"{dreams}: {MINIMUM - dreams} are missing. `nightschool night` dreams of what the logs teach; "
            "with training.enabled = false it dreams and trains nothing"
        )
    return usable


def direction(activations: Array, dreams: Sequence[str], passed: Sequence[bool]) -> Array:
    """Return the mean over dreams of passed minus failed, unit norm, `(hidden_size,)`.

    Args:
        activations: `(n_answers, hidden_size)`.
        dreams: The dream of each answer; each dream has both kinds of answers.
        passed: Whether each answer passed.
    """
    ids, good = np.array(dreams), np.array(passed)
    differences = [
        activations[(ids == dream) & good].mean(axis=0) - activations[(ids == dream) & ~good].mean(axis=0)
        for dream in sorted(set(dreams))
    ]
    mean = np.mean(differences, axis=0)
    unit: Array = mean / max(float(np.linalg.norm(mean)), 1e-12)
    return unit


@dataclass(frozen=True, kw_only=True)
class BehaviourReader:
    """Reads behaviours' vectors from the served weights, and keeps them."""

    model: ModelClient
    trainer: Internals
    directory: Path
    """Directory of the concept vectors; the behaviours' vectors have a folder in it."""
    digest: str
    """Of the model (`describe.digest_of`)."""

    async def extract(
        self, name: str, answers: Sequence[JudgedAnswer], *, layers: int, weights_sha256: str
    ) -> ConceptVectors:
        """Make a behaviour's vector and keep it; `layers`: number of the model's layers."""
        usable = require(name, answers)
        layer = (layers - 1) // 2
        read_at = await self.trainer.activations(await self._until_first_token(usable), layers=(layer,))
        stream = np.frombuffer(read_at.data, dtype=np.float32).astype(np.float64)
        values = stream.reshape(read_at.texts, read_at.hidden)
        vector = direction(
            values, [answer.dream_id for answer in usable], [answer.passed for answer in usable]
        )
        return self._keep(name, vector.astype(np.float32), layer, weights_sha256)

    async def _until_first_token(self, answers: Sequence[JudgedAnswer]) -> list[list[int]]:
        """Return the tokens of each conversation up to the first of the answer."""
        prompts = await self.model.tokenize(
            [answer.messages for answer in answers], add_generation_prompt=True
        )
        answered = [[*one.messages, {"role": "assistant", "content": one.text}] for one in answers]
        whole = await self.model.tokenize(answered, add_generation_prompt=False)
        return [tokens[: len(prompt) + 1] for prompt, tokens in zip(prompts, whole, strict=True)]

    def _keep(self, name: str, vector: Array, layer: int, weights_sha256: str) -> ConceptVectors:
        """Write the vector in place of its older version; drops vectors of another model or layer."""
        place = self.directory / BEHAVIOURS
        try:
            old = read(place, model=self.digest)
        except IntegrityFault:  # damaged, or another model's: all of it can be made again
            old = None
        rows = {}
        if old is not None and old.layers == (layer,) and old.hidden_size == len(vector):
            rows = dict(zip(old.concepts, old.values[0], strict=True))
        rows[name] = vector
        names = tuple(sorted(rows))
        values = np.stack([rows[each] for each in names])[None].astype(np.float32)
        vectors = ConceptVectors(
            concepts=names, layers=(layer,), values=values, weights_version=weights_sha256, model=self.digest
        )
        write(place, vectors)
        return vectors
