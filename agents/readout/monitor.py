"""The monitor: measures the effect of an update on the model's inner states, and on ordinary text.

Readings before and after an update use the same fixed probe set and the same concept vectors, so their
difference is that of the weights. The concept vectors are the home's, of the concepts, texts, method and
layers that the user chose (`readout train`); a home without any gets them by the same code, from the set that
suits the model.

Invariant: there is a reading for every concept or for none, and it names its concept vectors. This module
does not judge: the verdict does.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.model.client import ModelClient
from agents.model.internals import Internals, LogProb
from agents.model.steering.concept_vectors import CARD, CURE, ConceptVectors, read
from agents.model.steering.wire import Direction
from agents.readout.collect import Source, read_texts
from agents.readout.concept_vectors import Array, Method, scores
from agents.readout.ordinary_text import OrdinaryText, ordinary_text, tokenize
from agents.readout.train import default_set, train_concept_vectors
from corpus.aliases import Progress
from corpus.concept_sets import NAMES, load
from corpus.errors import IntegrityFault
from corpus.world.concepts import probe_texts
from store.ledger.records import Reading

PIECE = 16
"""Exchanges of ordinary text in one request to the trainer, which attends to others between requests."""
DEPTH = 0.6
"""Share of the layers before the one that is read: past the middle, before those that only choose words."""


def _no_heads() -> tuple[int, int] | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """Takes readings through the trainer's view of the served weights."""

    model: ModelClient
    trainer: Internals
    directory: Path
    """Where the concept vectors are kept."""
    layers: Callable[[], int]
    """Returns the model's number of layers; called once there is a model to read."""
    model_digest: str
    """Of the model's directory."""
    exchanges: int = 64
    """Exchanges of ordinary dialogue for the perplexity of a model that is not the shipped one."""
    heads: Callable[[], tuple[int, int] | None] = _no_heads
    """Returns the attention's numbers of query heads and of key and value heads; None if they are unknown."""

    @property
    def layer(self) -> int:
        """Number of the layer that concept vectors are made of unless the user chooses others."""
        count = self.layers()
        return min(count - 1, round(DEPTH * count))

    @property
    def has_vectors(self) -> bool:
        """Whether the home has concept vectors."""
        return (self.directory / CARD).exists()

    @property
    def ordinary_text(self) -> OrdinaryText:
        """The text that the perplexity is taken on."""
        return ordinary_text(self.model_digest, self.exchanges)

    def source(self, weights_sha256: str) -> Source:
        """Return the source of activations of these weights, which are served now."""
        return Source(
            model=self.model,
            trainer=self.trainer,
            directory=self.directory,
            model_digest=self.model_digest,
            weights_version=weights_sha256,
        )

    async def concept_vectors(self, weights_sha256: str, report: Progress | None = None) -> ConceptVectors:
        """Return the home's concept vectors; a home without any gets them from the served weights.

        Raises:
            IntegrityFault: The files are damaged or of another model; the message says the cure.
        """
        vectors = read(self.directory, model=self.model_digest)
        if vectors is None:
            source, texts = self.source(weights_sha256), load(default_set(self.model_digest))
            texts.check()
            vectors, _ = await train_concept_vectors(source, texts, layers=[self.layer], report=report)
        if not all(0 <= layer < self.layers() for layer in vectors.layers):
            raise IntegrityFault(f"{self.directory / CARD} is of layers that this model has not: {CURE}")
        return vectors

    async def reestimate(
        self,
        weights_sha256: str,
        known: ConceptVectors,
        method: Method = "mean",
        report: Progress | None = None,
    ) -> ConceptVectors:
        """Replace these concept vectors by ones that are estimated in the same way on the served weights."""
        sets = {texts.sha256: texts for texts in map(load, NAMES)}
        texts = sets.get(known.corpus_sha256) or load(default_set(self.model_digest))
        source = self.source(weights_sha256)
        vectors, _ = await train_concept_vectors(
            source, texts, layers=known.layers, method=method, report=report
        )
        return vectors

    def layer_of(self, vectors: ConceptVectors) -> int:
        """Return the layer that these concept vectors are read at: the one nearest to `layer`."""
        return min(vectors.layers, key=lambda known: (abs(known - self.layer), known))

    async def score_probe_set(self, weights_sha256: str, vectors: ConceptVectors) -> Array:
        """Return the scores of the probe set on the weights that are served now, `(n_texts, n_concepts)`."""
        layer = self.layer_of(vectors)
        collected = await read_texts(self.source(weights_sha256), probe_texts(), layers=[layer])
        if collected.stream.shape[2] != vectors.hidden_size:
            raise IntegrityFault(f"{self.directory / CARD} is of another model: {CURE}")
        return scores(collected.of(layer), vectors.of_layer(layer).astype("float64"))

    async def read(
        self, weights_sha256: str, vectors: ConceptVectors, probe_scores: Array | None = None
    ) -> tuple[Reading, ...]:
        """Return the readings of the weights that are served now, and their perplexity on ordinary text.

        `probe_scores`: the result of `score_probe_set` on these weights; None to read it now.
        """
        if probe_scores is None:
            probe_scores = await self.score_probe_set(weights_sha256, vectors)
        readings = [
            Reading(
                weights_sha256=weights_sha256,
                name=concept,
                mean=float(probe_scores[:, index].mean()),
                spread=float(probe_scores[:, index].std()),
                vectors=vectors.digest,
            )
            for index, concept in enumerate(vectors.concepts)
        ]
        perplexity = Reading(
            weights_sha256=weights_sha256,
            name="perplexity",
            mean=await self.perplexity(),
            spread=0.0,
            vectors=self.ordinary_text.name,
        )
        return (*readings, perplexity)

    async def perplexity(self, steer: Sequence[Direction] = ()) -> float:
        """Return exp of the mean negative log-probability per token of the answers in ordinary text.

        `steer`: directions that steer the model during the call.
        """
        items = await tokenize(self.model, self.ordinary_text)
        logprobs: list[LogProb] = []
        for start in range(0, len(items), PIECE):
            logprobs += await self.trainer.logprobs(items[start : start + PIECE], steer)
        tokens = sum(item.tokens for item in logprobs)
        return math.exp(-sum(item.total for item in logprobs) / tokens)
