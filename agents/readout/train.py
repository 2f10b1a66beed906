"""Concept vectors made from a set's texts on the weights that are served now, and kept in the home.

Invariant: the file is replaced when all layers are done, or not at all. Does not say which layers or which set:
`default_set` and `Monitor.layer` know what suits a model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import anyio.to_thread
import numpy as np

from agents.model.describe import digest
from agents.model.steering.concept_vectors import ConceptVectors, write
from agents.readout.collect import Collected, Source, collected
from agents.readout.vectors import Method, accuracy, concept_vectors
from corpus.aliases import Progress
from corpus.concept_sets import ConceptSet, Name
from corpus.errors import UsageError
from corpus.recipe import MODEL_DIR


@dataclass(frozen=True, kw_only=True)
class Layer:
    """How the vectors of one layer came out."""

    layer: int
    """Its number, from 0."""
    accuracy: float
    """Share of held-out texts whose own concept scores highest; see `vectors.accuracy`."""


def default_set(model_digest: str) -> Name:
    """The set that suits a model: the embedded model knows its world and no feelings, any other one is thought to."""
    return "world" if model_digest == digest(MODEL_DIR) else "states"


async def train(
    source: Source,
    texts: ConceptSet,
    *,
    layers: Sequence[int],
    method: Method = "mean",
    report: Progress | None = None,
) -> tuple[ConceptVectors, tuple[Layer, ...]]:
    """Make the vectors of these layers, keep them in `source.directory`, and say how they came out."""
    found = await collected(source, texts, layers=layers, report=report)
    values, told = await anyio.to_thread.run_sync(_made, found, texts, method)
    vectors = ConceptVectors(
        concepts=texts.concepts,
        layers=tuple(layers),
        values=values,
        weights_version=source.weights_version,
        model=source.model_digest,
        corpus_sha256=texts.sha256,
    )
    write(source.directory, vectors)
    return vectors, told


def _made(
    found: Collected, texts: ConceptSet, method: Method
) -> tuple[np.typing.NDArray[np.float32], tuple[Layer, ...]]:
    """The vectors, `(n_layers, n_concepts, hidden_size)`, and each layer's accuracy."""
    values, told = [], []
    for layer in found.layers:
        activations = found.of(layer)
        if not np.isfinite(activations).all():
            raise UsageError(
                f"the residual stream after layer {layer} is not finite: this model cannot be read there"
            )
        values.append(concept_vectors(activations, texts.labels, texts.concepts, method).astype(np.float32))
        told.append(Layer(layer=layer, accuracy=accuracy(activations, texts.labels, texts.concepts, method)))
    return np.stack(values), tuple(told)
