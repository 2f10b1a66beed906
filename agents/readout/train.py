"""Makes concept vectors from a set's texts on the weights that are served now, and stores them.

Invariant: the stored files are replaced when the vectors of all layers are made, or not at all. This module
does not choose layers or sets: its callers do, with `default_set` and `Monitor.layer`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

from agents.model.describe import is_shipped
from agents.model.steering.concept_vectors import ConceptVectors, write
from agents.readout.collect import Collected, Source, collect
from agents.readout.concept_vectors import Method, accuracy, concept_vectors
from corpus.aliases import Progress
from corpus.concept_sets import ConceptSet, Name
from corpus.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class LayerAccuracy:
    """The accuracy of one layer's concept vectors."""

    layer: int
    """Number of the layer, from 0."""
    accuracy: float
    """Share of held-out texts that score highest on their own concept: see `concept_vectors.accuracy`."""


def default_set(model_digest: str) -> Name:
    """Return the name of a model's default concept set; the shipped model has a set of its own world."""
    return "world" if is_shipped(model_digest) else "states"


async def train_concept_vectors(
    source: Source,
    texts: ConceptSet,
    *,
    layers: Sequence[int],
    method: Method = "mean",
    report: Progress | None = None,
) -> tuple[ConceptVectors, tuple[LayerAccuracy, ...]]:
    """Make and store the concept vectors of these layers; return them and each layer's accuracy."""
    collected = await collect(source, texts, layers=layers, report=report)
    values, accuracies = await anyio.to_thread.run_sync(_estimate, collected, texts, method)
    vectors = ConceptVectors(
        concepts=texts.concepts,
        layers=tuple(layers),
        values=values,
        weights_version=source.weights_version,
        model=source.model_digest,
        corpus_sha256=texts.sha256,
    )
    write(source.directory, vectors)
    return vectors, accuracies


def _estimate(
    collected: Collected, texts: ConceptSet, method: Method
) -> tuple[NDArray[np.float32], tuple[LayerAccuracy, ...]]:
    """Return the vectors, `(n_layers, n_concepts, hidden_size)`, and each layer's accuracy."""
    values, accuracies = [], []
    for layer in collected.layers:
        stream = collected.of(layer)
        if not np.isfinite(stream).all():
            raise UsageError(
                f"the residual stream after layer {layer} is not finite: this model cannot be read there"
            )
        values.append(concept_vectors(stream, texts.labels, texts.concepts, method).astype(np.float32))
        share = accuracy(stream, texts.labels, texts.concepts, method)
        accuracies.append(LayerAccuracy(layer=layer, accuracy=share))
    return np.stack(values), tuple(accuracies)
