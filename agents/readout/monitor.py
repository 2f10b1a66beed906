"""The monitor: what an update does to the model's inner states, and to ordinary text.

Readings before and after an update are taken on the same fixed panel with the same vectors, so their difference is
the weights'. The vectors are those that the home has, of whatever concepts, texts, method and layers the user chose
(`readout train`); where it has none they are made by the same code, of the set that suits the model. Invariant: a
reading exists for every concept or for none, and names the vectors that it was taken with. Does not judge: the
verdict does.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.model.client import ModelClient
from agents.model.internals import Internals
from agents.model.steering.concept_vectors import CARD, CURE, ConceptVectors, read
from agents.model.steering.wire import Direction
from agents.readout.collect import Source, run
from agents.readout.train import default_set, train
from agents.readout.vectors import Array, Method, scores
from corpus.aliases import Progress
from corpus.concept_sets import NAMES, load
from corpus.errors import IntegrityFault
from corpus.world import ordinary
from corpus.world.concepts import probe_texts
from store.ledger.records import Reading

ORDINARY_TEXTS = 120
"""Held-out ordinary exchanges that the perplexity is taken on."""
DEPTH = 0.6
"""Share of the layers that come before the one that is read: past the middle, before those that only choose words."""


def _no_heads() -> tuple[int, int] | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """Takes readings through the trainer's view of the served weights."""

    model: ModelClient
    trainer: Internals
    directory: Path
    """Where the vectors are kept."""
    layers: Callable[[], int]
    """How many layers the model has; asked once there is a model to read."""
    model_digest: str
    """Of the model's directory."""
    heads: Callable[[], tuple[int, int] | None] = _no_heads
    """How many heads of queries, and of keys and values, its attention has; None where that is not known."""

    @property
    def layer(self) -> int:
        """Number of the layer that vectors are made of unless the user says others."""
        count = self.layers()
        return min(count - 1, round(DEPTH * count))

    @property
    def has_vectors(self) -> bool:
        """Whether the home has concept vectors."""
        return (self.directory / CARD).exists()

    def source(self, weights_sha256: str) -> Source:
        """Where the activations of the weights that are served now come from."""
        return Source(
            model=self.model,
            trainer=self.trainer,
            directory=self.directory,
            model_digest=self.model_digest,
            weights_version=weights_sha256,
        )

    async def vectors(self, weights_sha256: str, report: Progress | None = None) -> ConceptVectors:
        """The home's concept vectors; made on these weights, which are served now, where it has none.

        ConceptVectors of another model, and files that are damaged, are an `IntegrityFault` with the cure.
        """
        found = read(self.directory, model=self.model_digest)
        if found is None:
            source, texts = self.source(weights_sha256), load(default_set(self.model_digest))
            texts.check()
            found, _ = await train(source, texts, layers=[self.layer], report=report)
        if not all(0 <= layer < self.layers() for layer in found.layers):
            raise IntegrityFault(f"{self.directory / CARD} is of layers that this model has not: {CURE}")
        return found

    async def again(
        self,
        weights_sha256: str,
        known: ConceptVectors,
        method: Method = "mean",
        report: Progress | None = None,
    ) -> ConceptVectors:
        """These vectors estimated anew, in the same way, on the weights that are served now; they take their place."""
        sets = {texts.sha256: texts for texts in map(load, NAMES)}
        texts = sets.get(known.corpus_sha256) or load(default_set(self.model_digest))
        source = self.source(weights_sha256)
        found, _ = await train(source, texts, layers=known.layers, method=method, report=report)
        return found

    def read_at(self, vectors: ConceptVectors) -> int:
        """The layer that these vectors read at: of several, the one that is nearest to `layer`."""
        return min(vectors.layers, key=lambda known: (abs(known - self.layer), known))

    async def panel(self, weights_sha256: str, vectors: ConceptVectors) -> Array:
        """The scores of the fixed panel's texts on the weights that are served now, `(n_texts, n_concepts)`."""
        layer = self.read_at(vectors)
        seen = await run(self.source(weights_sha256), probe_texts(), layers=[layer])
        if seen.stream.shape[2] != vectors.hidden_size:
            raise IntegrityFault(f"{self.directory / CARD} is of another model: {CURE}")
        return scores(seen.of(layer), vectors.values[vectors.layers.index(layer)].astype("float64"))

    async def read(
        self, weights_sha256: str, vectors: ConceptVectors, found: Array | None = None
    ) -> tuple[Reading, ...]:
        """The readings of the weights that are served now, and their perplexity on ordinary text.

        found: what `panel` gave on these weights; it is read if it is not given.
        """
        if found is None:
            found = await self.panel(weights_sha256, vectors)
        readings = [
            Reading(
                weights_sha256=weights_sha256,
                name=concept,
                mean=float(found[:, index].mean()),
                spread=float(found[:, index].std()),
                vectors=vectors.digest,
            )
            for index, concept in enumerate(vectors.concepts)
        ]
        perplexity = await self.perplexity()
        return (
            *readings,
            Reading(
                weights_sha256=weights_sha256, name="perplexity", mean=perplexity, spread=0.0, vectors=""
            ),
        )

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
