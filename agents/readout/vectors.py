"""Concept vectors on the residual stream, and the scores read with them.

Three ways to a direction, behind one signature; positives are a concept's texts, negatives all others, those of
other concepts and those of none. Invariant: pure: arrays in, arrays out, in float64 so that the order of texts does
not show; a vector has unit length and points to where its positives lie. Knows no model and no file.
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from corpus.errors import UsageError

Array = NDArray[np.float64]
Method = Literal["mean", "pca", "ridge"]
METHODS: tuple[Method, ...] = get_args(Method)
FOLDS = 10
"""Parts that the texts are cut into for the accuracy."""
RIDGE = 1.0
"""Penalty of the ridge probe, in units of the texts' mean squared distance from their mean. With few texts in many
dimensions a lower one fits their noise (0.1: a planted direction is found at a cosine of 0.9 instead of 0.99)."""
_SMALL = 1e-12
"""Length under which a direction, in units of its texts' spread, is none."""


def concept_vectors(
    activations: Array, labels: Sequence[str | None], concepts: Sequence[str], method: Method = "mean"
) -> Array:
    """One unit vector a concept, `(n_concepts, hidden_size)`.

    activations: `(n_texts, hidden_size)`, the residual stream at each text's last token; labels: the concept that
    each text shows, None for a text that shows none. Raises `UsageError` for a concept that has no direction.
    """
    shows = np.array([[label == concept for concept in concepts] for label in labels], dtype=np.float64)
    for concept, count in zip(concepts, shows.sum(axis=0), strict=True):
        if not 0 < count < len(labels):
            raise UsageError(f"{concept!r} needs texts that show it and texts that do not")
    centred = activations - activations.mean(axis=0)
    spread = np.sqrt((centred**2).sum(axis=1).mean())
    for concept, difference in zip(concepts, _means(centred, shows), strict=True):
        if not np.linalg.norm(difference) > _SMALL * spread:
            raise UsageError(
                f"the texts of {concept!r} do not differ from the others here: it has no direction"
            )
    found = _WAYS[method](centred, shows)
    vectors: Array = found / np.linalg.norm(found, axis=1, keepdims=True)
    return vectors


def _means(centred: Array, shows: Array) -> Array:
    """Mean of the positives less mean of the negatives (CAA, arXiv 2312.06681, section 3)."""
    count = shows.sum(axis=0)[:, None]
    sums = shows.T @ centred
    difference: Array = sums / count - (centred.sum(axis=0) - sums) / (len(centred) - count)
    return difference


def _components(centred: Array, shows: Array) -> Array:
    """First principal component of the positives about the negatives' mean, uncentred (as in representation
    engineering, arXiv 2310.01405, section 3.1), turned to where the positives lie."""
    found = []
    for mine, difference in zip(shows.T.astype(bool), _means(centred, shows), strict=True):
        offsets = centred[mine] - centred[~mine].mean(axis=0)
        first = np.linalg.svd(offsets, full_matrices=False)[2][0]
        found.append(first if first @ difference >= 0 else -first)
    return np.stack(found)


def _probes(centred: Array, shows: Array) -> Array:
    """Weights of a linear probe by ridge regression of "shows it" on the stream, solved in the space of texts:
    w = X' (X X' + lambda I)^-1 y (the dual form; Murphy 2012, equation 14.45)."""
    gram = centred @ centred.T
    penalty = RIDGE * np.trace(gram) / len(gram)
    weights = np.linalg.solve(gram + penalty * np.eye(len(gram)), shows - shows.mean(axis=0))
    probes: Array = weights.T @ centred
    return probes


_WAYS: dict[Method, Callable[[Array, Array], Array]] = {"mean": _means, "pca": _components, "ridge": _probes}


def scores(activations: Array, vectors: Array) -> Array:
    """Projection of each text on each concept, `(n_texts, n_concepts)`, in units of the residual stream."""
    projected: Array = activations @ vectors.T
    return projected


def accuracy(
    activations: Array, labels: Sequence[str | None], concepts: Sequence[str], method: Method = "mean"
) -> float:
    """Share of texts whose own concept's vector, estimated without that text, scores highest of all when scores
    are centred by concept: whether the vectors mean anything (0 to 1; chance is 1 / n_concepts).

    Every tenth of each concept's texts is held out in turn; a concept with a single text has none to spare.
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
