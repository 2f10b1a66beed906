"""Concept vectors on the residual stream, and the scores read with them.

Difference of means (CAA, arXiv 2312.06681, section 3), unit norm. Invariant: pure: arrays in, arrays out, in
float64 so that the order of texts does not show. Knows no model and no file.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def concept_vectors(activations: Array, labels: list[str], concepts: tuple[str, ...]) -> Array:
    """One unit vector a concept, `(n_concepts, hidden_size)`.

    activations: `(n_texts, hidden_size)`, the residual stream at each text's last token; labels: the concept
    that each text shows. Positives are a concept's texts, negatives all others'.
    """
    vectors = []
    for concept in concepts:
        mine = np.array([label == concept for label in labels])
        direction = activations[mine].mean(axis=0) - activations[~mine].mean(axis=0)
        vectors.append(direction / np.linalg.norm(direction))
    return np.stack(vectors)


def scores(activations: Array, vectors: Array) -> Array:
    """Projection of each text on each concept, `(n_texts, n_concepts)`, in units of the residual stream."""
    projected: Array = activations @ vectors.T
    return projected


def accuracy(activations: Array, labels: list[str], concepts: tuple[str, ...]) -> float:
    """Share of texts whose own concept's vector, estimated without that text, scores highest of all when
    scores are centred by concept: whether the vectors mean anything (0 to 1)."""
    hits = 0
    for index, label in enumerate(labels):
        rest = np.delete(activations, index, axis=0)
        rest_labels = labels[:index] + labels[index + 1 :]
        vectors = concept_vectors(rest, rest_labels, concepts)
        centred = scores(activations[index : index + 1] - rest.mean(axis=0), vectors)[0]
        hits += concepts[int(centred.argmax())] == label
    return hits / len(labels)
