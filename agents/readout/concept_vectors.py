"""Concept vectors on the residual stream, and the scores that are read with them.

There are three methods, with one signature; a concept's positives are its texts, its negatives all other
texts, those of other concepts and those of none.

Invariant: pure, from arrays to arrays, in float64 so that the order of texts does not matter. A vector has
unit length and points to its positives. This module knows nothing about models or files.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from corpus.errors import UsageError

Array = NDArray[np.float64]
Numbers = NDArray[Any]
"""An array of float32 or float64."""
Method = Literal["mean", "pca", "ridge"]
METHODS: tuple[Method, ...] = get_args(Method)
FOLDS = 10
"""Number of folds that the texts are divided into for the accuracy."""
RIDGE = 1.0
"""Penalty of the ridge probe, in units of the texts' mean squared distance from their mean. With few texts in
many dimensions a lower penalty fits their noise (0.1: a planted direction is found at a cosine of 0.9 instead
of 0.99)."""
_SMALL = 1e-12
"""Length, in standard deviations of the texts, below which a difference gives no direction."""


def concept_vectors(
    activations: Array, labels: Sequence[str | None], concepts: Sequence[str], method: Method = "mean"
) -> Array:
    """Return one unit vector for each concept, `(n_concepts, hidden_size)`.

    Args:
        activations: The residual stream at each text's last token, `(n_texts, hidden_size)`.
        labels: The concept that each text shows; None for a text that shows none.
        concepts: The concepts, in the order of the result.
        method: How a direction is estimated.

    Raises:
        UsageError: A concept has no positives, no negatives, or no direction.
    """
    shows = np.array([[label == concept for concept in concepts] for label in labels], dtype=np.float64)
    for concept, count in zip(concepts, shows.sum(axis=0), strict=True):
        if not 0 < count < len(labels):
            raise UsageError(f"{concept!r} needs texts that show it and texts that do not")
    centred = activations - activations.mean(axis=0)
    deviation = np.sqrt((centred**2).sum(axis=1).mean())
    for concept, difference in zip(concepts, _means(centred, shows), strict=True):
        if not np.linalg.norm(difference) > _SMALL * deviation:
            raise UsageError(
                f"the texts of {concept!r} do not differ from the others here: it has no direction"
            )
    directions = _ESTIMATORS[method](centred, shows)
    vectors: Array = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return vectors


def _means(centred: Array, shows: Array) -> Array:
    """Return the mean of the positives minus the mean of the negatives (CAA, arXiv 2312.06681, section 3)."""
    count = shows.sum(axis=0)[:, None]
    sums = shows.T @ centred
    difference: Array = sums / count - (centred.sum(axis=0) - sums) / (len(centred) - count)
    return difference


def _components(centred: Array, shows: Array) -> Array:
    """Return the first principal component of the positives about the negatives' mean, uncentred.

    As in representation engineering (arXiv 2310.01405, section 3.1), turned to where the positives lie.
    """
    components = []
    for mine, difference in zip(shows.T.astype(bool), _means(centred, shows), strict=True):
        offsets = centred[mine] - centred[~mine].mean(axis=0)
        first = np.linalg.svd(offsets, full_matrices=False)[2][0]
        components.append(first if first @ difference >= 0 else -first)
    return np.stack(components)


def _probes(centred: Array, shows: Array) -> Array:
    """Return the weights of a linear probe by ridge regression of "shows it" on the stream.

    Solved in the space of texts: w = X' (X X' + lambda I)^-1 y (the dual form; Murphy 2012, equation 14.45).
    """
    gram = centred @ centred.T
    penalty = RIDGE * np.trace(gram) / len(gram)
    weights = np.linalg.solve(gram + penalty * np.eye(len(gram)), shows - shows.mean(axis=0))
    probes: Array = weights.T @ centred
    return probes


_ESTIMATORS: dict[Method, Callable[[Array, Array], Array]] = {
    "mean": _means,
    "pca": _components,
    "ridge": _probes,
}


def scores(activations: Array, vectors: Array) -> Array:
    """Project each text on each vector: `(n_texts, n_concepts)`, in units of the residual stream."""
    projected: Array = activations @ vectors.T
    return projected


def accuracy(
    activations: Array, labels: Sequence[str | None], concepts: Sequence[str], method: Method = "mean"
) -> float:
    """Return the share of held-out texts that score highest on their own concept, 0 to 1.

    Vectors are estimated without the held-out text, and scores are centred by concept; chance is 1 /
    n_concepts. Every tenth of each concept's texts is held out in turn, except for the only text of a
    concept.
    """
    places: dict[str, list[int]] = {concept: [] for concept in concepts}
    for index, label in enumerate(labels):
        if label is not None:
            places[label].append(index)
    spare = [(concept, own) for concept, own in places.items() if len(own) > 1]
    hits = 0
    for fold in range(FOLDS):
        held = {index: concept for concept, own in spare for index in own[fold::FOLDS]}
        if held:
            rest = [index for index in range(len(labels)) if index not in held]
            kept = activations[rest]
            vectors = concept_vectors(kept, [labels[index] for index in rest], concepts, method)
            best = scores(activations[list(held)] - kept.mean(axis=0), vectors).argmax(axis=1)
            hits += sum(concepts[at] == concept for at, concept in zip(best, held.values(), strict=True))
    return hits / max(1, sum(len(own) for _, own in spare))
