"""Makes a behaviour's vector from the attempts at its dreams: passed answers minus failed answers.

The residual stream is read after the first token of each answer, in a middle layer: at this point the model
has decided on the answer but hardly begun it. Passed and failed answers to the same dream have the same
prompt, so their difference shows the behaviour and not the request. The vector is the mean of these
differences over the dreams (CAA, arXiv 2312.06681, section 3, on the model's own answers).

Invariant: dreams whose answers all passed or all failed are not used. This module knows nothing about the
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
"""Number of dreams with both passed and failed answers that a vector needs. With fewer, the vector would
depend too much on single requests."""


@dataclass(frozen=True, kw_only=True)
class JudgedAnswer:
    """A judged answer to a dream."""

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
    """Return the answers to dreams with both outcomes; raise GateRefused if there are too few such dreams."""
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
    """Return the direction from failed to passed answers, with unit norm, `(hidden_size,)`.

    For each dream, the mean of its failed answers is subtracted from the mean of its passed answers. The
    direction is the mean of these differences.

    Args:
        activations: The residual stream at each answer, `(n_answers, hidden_size)`.
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
    """Makes the vectors of behaviours on the served weights, and stores them."""

    model: ModelClient
    trainer: Internals
    directory: Path
    """Directory of the concept vectors. The vectors of behaviours have a folder in this directory."""
    digest: str
    """Digest of the model (`describe.digest_of`)."""

    async def extract(
        self, name: str, answers: Sequence[JudgedAnswer], *, layers: int, weights_sha256: str
    ) -> ConceptVectors:
        """Make a behaviour's vector, store it, and return all stored vectors of behaviours.

        Args:
            name: Name of the behaviour.
            answers: The judged answers to the behaviour's dreams.
            layers: Number of the model's layers.
            weights_sha256: Digest of the served weights.

        Raises:
            GateRefused: Too few dreams have both passed and failed answers.
        """
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
        """Return the tokens of each conversation up to the answer's first token."""
        prompts = await self.model.tokenize(
            [answer.messages for answer in answers], add_generation_prompt=True
        )
        answered = [[*one.messages, {"role": "assistant", "content": one.text}] for one in answers]
        whole = await self.model.tokenize(answered, add_generation_prompt=False)
        return [tokens[: len(prompt) + 1] for prompt, tokens in zip(prompts, whole, strict=True)]

    def _keep(self, name: str, vector: Array, layer: int, weights_sha256: str) -> ConceptVectors:
        """Store the vector in place of its older version, and return all stored vectors.

        Stored vectors of another model, layer or size are dropped.
        """
        place = self.directory / BEHAVIOURS
        try:
            old = read(place, model=self.digest)
        except IntegrityFault:  # damaged, or another model's: the vectors can be made again
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
