"""Measures the effect of an update on the model's inner states, and on ordinary text.

Readings before and after an update use the same fixed probe set and the same concept vectors, so a difference
between two readings comes from the weights alone. The concept vectors are the home's: the user chose their
concepts, texts, method and layers (`nightschool readout train`). For a home without concept vectors, the
monitor makes them from the default concept set of the model.

Invariant: every concept has a reading, or none has, and a reading names its concept vectors. This module
makes no judgement: the verdict does.
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
"""Exchanges of ordinary text in one request to the trainer, which can answer other requests in between."""
DEPTH = 0.6
"""Depth of the layer that is read, as a share of all layers: past the middle, before the layers that only
choose words."""


def _no_heads() -> tuple[int, int] | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """Takes readings of the served weights, through the trainer."""

    model: ModelClient
    trainer: Internals
    directory: Path
    """Directory of the home's concept vectors."""
    layers: Callable[[], int]
    """A function that returns the model's number of layers. It is called only when a model is loaded."""
    model_digest: str
    """Digest of the model's directory."""
    exchanges: int = 64
    """Number of exchanges of ordinary dialogue in the text for the perplexity; not used for the shipped
    model."""
    heads: Callable[[], tuple[int, int] | None] = _no_heads
    """A function that returns the number of query heads and the number of key and value heads, or None if
    they are unknown."""

    @property
    def layer(self) -> int:
        """Number of the layer that concept vectors are made on, unless the user chooses others."""
        count = self.layers()
        return min(count - 1, round(DEPTH * count))

    @property
    def has_vectors(self) -> bool:
        """Whether the home has concept vectors."""
        return (self.directory / CARD).exists()

    @property
    def ordinary_text(self) -> OrdinaryText:
        """The text that the perplexity is measured on."""
        return ordinary_text(self.model_digest, self.exchanges)

    def source(self, weights_sha256: str) -> Source:
        """Return the source of activations; `weights_sha256`: digest of the weights that are served now."""
        return Source(
            model=self.model,
            trainer=self.trainer,
            directory=self.directory,
            model_digest=self.model_digest,
            weights_version=weights_sha256,
        )

    async def concept_vectors(self, weights_sha256: str, report: Progress | None = None) -> ConceptVectors:
        """Return the home's concept vectors; if there are none, make them on the served weights first.

        Raises:
            IntegrityFault: The files are damaged or of another model.
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
        """Make these concept vectors again on the served weights, store them, and return them.

        Args:
            weights_sha256: Digest of the served weights.
            known: The home's concept vectors, which are replaced.
            method: How the new vectors are computed.
            report: Called with the number of texts read so far, and of all texts.
        """
        sets = {texts.sha256: texts for texts in map(load, NAMES)}
        texts = sets.get(known.corpus_sha256) or load(default_set(self.model_digest))
        source = self.source(weights_sha256)
        vectors, _ = await train_concept_vectors(
            source, texts, layers=known.layers, method=method, report=report
        )
        return vectors

    def layer_of(self, vectors: ConceptVectors) -> int:
        """Return the layer to read with these concept vectors: the nearest of their layers to `layer`."""
        return min(vectors.layers, key=lambda known: (abs(known - self.layer), known))

    async def score_probe_set(self, weights_sha256: str, vectors: ConceptVectors) -> Array:
        """Return the probe set's scores on the weights that are served now, `(n_texts, n_concepts)`."""
        layer = self.layer_of(vectors)
        collected = await read_texts(self.source(weights_sha256), probe_texts(), layers=[layer])
        if collected.stream.shape[2] != vectors.hidden_size:
            raise IntegrityFault(f"{self.directory / CARD} is of another model: {CURE}")
        return scores(collected.of(layer), vectors.of_layer(layer).astype("float64"))

    async def read(
        self, weights_sha256: str, vectors: ConceptVectors, probe_scores: Array | None = None
    ) -> tuple[Reading, ...]:
        """Return a reading for each concept and one for the perplexity, of the weights that are served now.

        Args:
            weights_sha256: Digest of these weights.
            vectors: The concept vectors.
            probe_scores: The result of `score_probe_set` on these weights; None to compute it now.
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
        """Return the model's perplexity on the answers in ordinary text.

        The perplexity is exp of the mean negative log-probability per token. `steer`: directions that the
        model is steered by during this call.
        """
        items = await tokenize(self.model, self.ordinary_text)
        logprobs: list[LogProb] = []
        for start in range(0, len(items), PIECE):
            logprobs += await self.trainer.logprobs(items[start : start + PIECE], steer, exact=False)
        tokens = sum(item.tokens for item in logprobs)
        return math.exp(-sum(item.total for item in logprobs) / tokens)
