"""The monitor: what an update does to the model's inner states, and to ordinary text.

Concept vectors are estimated once, on the weights that the home began with, and kept in `readout.safetensors`;
readings before and after an update are taken on the same fixed panel, so their difference is the weights'.
Invariant: a reading exists for every concept or for none. Does not judge: the verdict does.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from agents.model.client import ModelClient
from agents.model.direction import Direction
from agents.model.vectors_file import CARD, Vectors, read, write
from agents.readout.vectors import Array, concept_vectors, scores
from corpus.errors import IntegrityFault
from corpus.world import ordinary
from corpus.world.concepts import CONCEPTS, panel, texts
from store.records import Reading

ORDINARY_TEXTS = 120
"""Held-out ordinary exchanges that the perplexity is taken on."""
DEPTH = 0.6
"""Relative depth of the layer that is read: past the middle, before the layers that only choose words."""


class Activations(Protocol):
    """The residual stream of some texts: a float32 array `(texts, layers, hidden)` as bytes."""

    @property
    def texts(self) -> int: ...
    @property
    def hidden(self) -> int: ...
    @property
    def data(self) -> bytes: ...


class LogProb(Protocol):
    """Summed log-probability (nats) of a continuation, and its length."""

    @property
    def total(self) -> float: ...
    @property
    def tokens(self) -> int: ...


class Inside(Protocol):
    """What is needed of the trainer: its view of the served weights."""

    async def activations(self, texts: Sequence[Sequence[int]], layers: Sequence[int]) -> Activations:
        """The residual stream at the last token of each text."""

    async def logprobs(
        self, items: Sequence[tuple[Sequence[int], Sequence[int]]], steer: Sequence[Direction] = ()
    ) -> Sequence[LogProb]:
        """The log-probability of each continuation, given its context, of the model steered so."""


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """Takes readings through the trainer's view of the served weights."""

    model: ModelClient
    trainer: Inside
    directory: Path
    """Where the vectors are kept."""
    layers: Callable[[], int]
    """How many layers the model has; asked once there is a model to read."""

    @property
    def layer(self) -> int:
        """Number of the layer that is read."""
        count = self.layers()
        return min(count - 1, round(DEPTH * count))

    async def read(self, weights_sha256: str) -> tuple[Reading, ...]:
        """The readings of the weights that are served now, and their perplexity on ordinary text."""
        vectors = await self._vectors(weights_sha256)
        found = scores(await self._activations(panel()), vectors)
        readings = [
            Reading(
                weights_sha256=weights_sha256,
                name=concept,
                mean=float(found[:, index].mean()),
                spread=float(found[:, index].std()),
            )
            for index, concept in enumerate(CONCEPTS)
        ]
        perplexity = await self.perplexity()
        return (
            *readings,
            Reading(weights_sha256=weights_sha256, name="perplexity", mean=perplexity, spread=0.0),
        )

    async def _vectors(self, weights_sha256: str) -> Array:
        """The home's concept vectors, `(n_concepts, hidden_size)`; estimated when they are first needed."""
        found = read(self.directory) or await self._estimate(weights_sha256)
        if found.concepts != CONCEPTS or found.layers != (self.layer,):
            card = self.directory / CARD
            raise IntegrityFault(f"{card} is of another model or version: delete it to have the vectors made anew")
        vectors: Array = found.values[0].astype(np.float64)
        return vectors

    async def _estimate(self, weights_sha256: str) -> Vectors:
        labels = [concept for concept in CONCEPTS for _ in texts(concept)]
        found = await self._activations([text for concept in CONCEPTS for text in texts(concept)])
        values = concept_vectors(found, labels, CONCEPTS).astype(np.float32)[None]
        made = Vectors(concepts=CONCEPTS, layers=(self.layer,), values=values, weights_version=weights_sha256)
        write(self.directory, made)
        return made

    async def _activations(self, panel_texts: Sequence[str]) -> Array:
        """Residual stream at each text's last token, `(n_texts, hidden_size)`."""
        tokens = await self.model.tokenize_texts(list(panel_texts))
        found = await self.trainer.activations(tokens, layers=(self.layer,))
        values = np.frombuffer(found.data, dtype=np.float32).astype(np.float64)
        return values.reshape(found.texts, found.hidden)

    async def perplexity(self, steer: Sequence[Direction] = ()) -> float:
        """exp of the mean negative log-probability per token of the replies in held-out ordinary talk.

        `steer`: of the model while it is steered so.
        """
        talk = [
            [{"role": "user", "content": remark}, {"role": "assistant", "content": reply}]
            for remark, reply in ordinary.held_out(ORDINARY_TEXTS)
        ]
        asked = await self.model.tokenize([messages[:1] for messages in talk], add_generation_prompt=True)
        whole = await self.model.tokenize(talk, add_generation_prompt=False)
        items = [(a, w[len(a) :]) for a, w in zip(asked, whole, strict=True)]
        found = await self.trainer.logprobs(items, steer)
        tokens = sum(item.tokens for item in found)
        return math.exp(-sum(item.total for item in found) / tokens)
