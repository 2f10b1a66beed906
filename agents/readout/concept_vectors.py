"""Computes concept vectors on the residual stream, and the scores of texts along these vectors.

There are three methods with the same signature. The positives of a concept are its own texts; its negatives
are all other texts, whether they show another concept or none.

Invariant: all functions are pure and compute in float64, so that the order of the texts does not matter. A
vector has unit length and points to its positives. This module knows nothing about models or files.
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
"""Number of folds of the cross-validation that gives the accuracy."""
RIDGE = 1.0
"""Penalty of the ridge probe, in units of the texts' mean squared distance from their mean. With few texts in
many dimensions, a lower penalty fits the noise: with 0.1, a known direction is found with a cosine of 0.9
instead of 0.99."""
_SMALL = 1e-12
"""Smallest length, in standard deviations of the texts, of a difference of means that counts as a
direction."""


def concept_vectors(
    activations: Array, labels: Sequence[str | None], concepts: Sequence[str], method: Method = "mean"
) -> Array:
    """Return one unit vector for each concept, `(n_concepts, hidden_size)`.

    Args:
        activations: The residual stream at each text's last token, `(n_texts, hidden_size)`.
        labels: The concept that each text shows; None for a text that shows none.
        concepts: The concepts, in the order of the result.
        method: How the vectors are computed: "mean", "pca" or "ridge".

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
    """Return the first principal component of the positives minus the negatives' mean.

    The differences are not centred, as in representation engineering (arXiv 2310.01405, section 3.1). The
    component's sign is chosen so that it points to the positives.
    """
    components = []
    for mine, difference in zip(shows.T.astype(bool), _means(centred, shows), strict=True):
        offsets = centred[mine] - centred[~mine].mean(axis=0)
        first = np.linalg.svd(offsets, full_matrices=False)[2][0]
        components.append(first if first @ difference >= 0 else -first)
    return np.stack(components)


def _probes(centred: Array, shows: Array) -> Array:
    """Return the weights of a linear probe: ridge regression of "shows the concept" on the stream.

    The regression is solved in the space of texts: w = X' (X X' + lambda I)^-1 y (the dual form; Murphy 2012,
    equation 14.45).
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
    """Return each text's projection on each vector, `(n_texts, n_concepts)`."""
    projected: Array = activations @ vectors.T
    return projected


def accuracy(
    activations: Array, labels: Sequence[str | None], concepts: Sequence[str], method: Method = "mean"
) -> float:
    """Return the share of held-out texts that score highest on their own concept, 0 to 1.

    Each tenth of every concept's texts is held out in turn, except for a concept's only text. The vectors are
    computed without the held-out texts, and the scores on each concept are centred. Guessing would give 1 /
    n_concepts.
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
