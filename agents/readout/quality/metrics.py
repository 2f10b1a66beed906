"""Measures the quality of each concept's vector, with one metric for each way in which it may be bad.

Each metric uses the texts or the weights, never the vector alone. With few texts, few dimensions, or a stream
that varies mostly in one direction, a metric can be high by chance. So some metrics have a value `by_chance`:
the metric is computed for many draws of random texts in place of the concept's texts, and 19 of 20 draws stay
below this value.

Invariant: all functions are pure; SVD is computed in float32. This module knows nothing about models, files
or the verdict.
"""

from dataclasses import dataclass

import numpy as np

from agents.readout.concept_vectors import Numbers
from agents.readout.quality.labelled_activations import LabelledActivations, unit

LAMBDA = 0.01
"""Penalty of the ridge regression on the other concepts, whose vectors have unit norm."""
DRAWS, QUANTILE = 40, 0.95
"""Number of draws of random texts, and the share of the draws that stay below `by_chance`."""
NEAREST = 5
"""Number of similar concepts, and of contributors, that are listed."""


@dataclass(frozen=True, kw_only=True)
class FirstComponent:
    """How much of a concept's texts their first principal component explains."""

    share: float
    """The component's share of the summed squares of the texts' offsets (see `first_components`), 0 to 1."""
    by_chance: float
    """The same share for as many random texts."""
    cosine: float
    """Absolute cosine of the component and the concept's vector, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """The number of a concept or text, with the value by which it is ranked."""

    index: int
    value: float


@dataclass(frozen=True, kw_only=True)
class Neuron:
    """The neuron whose output direction is nearest to a concept's vector."""

    index: int
    cosine: float
    by_chance: float
    """The largest absolute cosine of any neuron with the vector of as many random texts."""


@dataclass(frozen=True, kw_only=True)
class RandomTexts:
    """Results of draws of random texts; each draw has as many texts as a concept."""

    shares: Numbers
    """For each draw, the first principal component's share, `(draws,)`: see `FirstComponent.share`."""
    vectors: Numbers
    """For each draw, the vector that the texts would give, `(draws, hidden_size)`."""


@dataclass(frozen=True, kw_only=True)
class Redundancy:
    """How well the other concepts' vectors, each times a coefficient, add up to a concept's vector."""

    r2: float
    """Share of the vector's squared length that the others explain, 0 to 1."""
    by_chance: float
    """Share of a random direction's squared length that the others explain."""
    contributors: tuple[Ranked, ...]
    """The other concepts with the largest coefficients, largest first, with their signs."""


def draw_random_texts(texts: LabelledActivations) -> dict[int, RandomTexts]:
    """Return results of random texts, by the number of texts in a draw. The draws are always the same."""
    drawn = {}
    for size in sorted({int(count) for count in texts.counts if 0 < count < len(texts.labels)}):
        rng = np.random.default_rng(size)
        shares, vectors = [], []
        for _ in range(DRAWS):
            mine = texts.activations[rng.choice(len(texts.labels), size, replace=False)]
            rest = (texts.total - mine.sum(axis=0)) / (len(texts.labels) - size)
            shares.append(_first_component(mine - rest)[0])
            vectors.append(mine.mean(axis=0) - rest)
        drawn[size] = RandomTexts(shares=np.array(shares), vectors=unit(np.stack(vectors)))
    return drawn


def first_components(
    texts: LabelledActivations, vectors: Numbers, by_chance: dict[int, RandomTexts]
) -> list[FirstComponent]:
    """Return, for each concept, how much of its texts their first principal component explains.

    The component is that of the texts' offsets from the mean of all other texts, as in the PCA of paired
    differences of Representation Engineering (arXiv 2310.01405, section 3.1). It is not taken about the
    concept's own mean, because the texts of a clean concept all lie in the same direction from the rest.

    Args:
        texts: The labelled activations.
        vectors: The concept vectors, `(n_concepts, hidden_size)`, unit norm.
        by_chance: The result of `draw_random_texts`.
    """
    components = []
    for concept, vector in enumerate(vectors):
        share, direction = _first_component(texts.offsets(concept))
        chance = _quantile(by_chance[int(texts.counts[concept])].shares)
        cosine = float(abs(direction @ vector))
        components.append(FirstComponent(share=share, by_chance=chance, cosine=cosine))
    return components


def _first_component(offsets: Numbers) -> tuple[float, Numbers]:
    """Return the rows' first principal component about 0: its share of their squares, and its direction."""
    _, sizes, directions = np.linalg.svd(offsets.astype(np.float32), full_matrices=False)
    squares = float((sizes**2).sum())
    return (float(sizes[0] ** 2) / squares, directions[0]) if squares > 0 else (0.0, 0 * directions[0])


def _quantile(values: Numbers) -> float:
    return float(np.quantile(values, QUANTILE))


def alignment(texts: LabelledActivations) -> Numbers:
    """Return the cosine of each text's offset with its concept's vector, `(n_texts,)`, -1 to 1.

    The vector is computed without the text; otherwise even two random texts would seem aligned (cosine 0.7).
    The value is NaN for a baseline and for the only text of a concept.
    """
    vectors = texts.leave_one_out_vectors()
    known = np.linalg.norm(vectors, axis=1) > 0
    cosines = np.full(len(vectors), np.nan)
    offsets = unit(texts.activations[known] - texts.negatives[texts.labels[known]])
    cosines[known] = (offsets * vectors[known]).sum(axis=1)
    return cosines


def outliers(texts: LabelledActivations, aligned: Numbers, count: int = 2) -> list[tuple[Ranked, ...]]:
    """Return for each concept its `count` texts with the lowest alignment, lowest first."""
    worst_texts = []
    for concept in range(len(texts.concepts)):
        mine = texts.of(concept)
        mine = mine[~np.isnan(aligned[mine])]
        worst = mine[np.argsort(aligned[mine], kind="stable")[:count]]
        worst_texts.append(tuple(Ranked(index=int(text), value=float(aligned[text])) for text in worst))
    return worst_texts


def nearest_neurons(
    texts: LabelledActivations, vectors: Numbers, down: Numbers, by_chance: dict[int, RandomTexts]
) -> list[Neuron]:
    """Return for each concept the neuron whose output direction is nearest to the concept's vector.

    Args:
        texts: The labelled activations.
        vectors: The concept vectors, `(n_concepts, hidden_size)`, unit norm.
        down: Weight of the MLP's down projection, `(hidden_size, neurons)`; a column is a neuron's output
            direction.
        by_chance: The result of `draw_random_texts`.
    """
    columns = unit(down.astype(np.float32).T)
    chance = {size: _quantile(np.abs(r.vectors @ columns.T).max(axis=1)) for size, r in by_chance.items()}
    cosines = vectors.astype(np.float32) @ columns.T
    best = np.abs(cosines).argmax(axis=1)
    return [
        Neuron(index=int(index), cosine=float(row[index]), by_chance=chance[int(count)])
        for index, row, count in zip(best, cosines, texts.counts, strict=True)
    ]


def nearest_concepts(vectors: Numbers, count: int = NEAREST) -> list[tuple[Ranked, ...]]:
    """Return for each concept the `count` other concepts with the most similar vectors, by cosine."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    neighbours = []
    for row in cosines:
        order = np.argsort(-row, kind="stable")[: min(count, len(row) - 1)]
        neighbours.append(tuple(Ranked(index=int(index), value=float(row[index])) for index in order))
    return neighbours


def redundancy(texts: LabelledActivations, vectors: Numbers, penalty: float = LAMBDA) -> list[Redundancy]:
    """Return for each concept how well the other concepts' vectors explain its vector, by ridge regression.

    The coordinates of the stream are the samples of the regression. The other vectors are computed without
    the concept's texts. If these texts were among their negatives, R^2 would be about 1 for any concept:
    differences of means against all other texts sum to nearly zero, so each is minus the sum of the others.
    R^2 is not centred, because a direction has no mean to subtract.
    """
    return [_redundancy(texts, vectors[concept], concept, penalty) for concept in range(len(vectors))]


def _redundancy(texts: LabelledActivations, vector: Numbers, concept: int, penalty: float) -> Redundancy:
    """Return one concept's redundancy, computed with the eigenvectors of the others' Gram matrix.

    Along an eigenvector with eigenvalue w, the ridge regression keeps w / (w + penalty) of the vector
    (Hastie, Tibshirani, Friedman: The Elements of Statistical Learning, 3.47). So it explains (w^2 + 2 w
    penalty) / (w + penalty)^2 of the square of this part.
    """
    others = np.delete(np.arange(len(texts.concepts)), concept)
    basis = unit(_differences_without(texts, concept, others)).astype(np.float32)  # (n_others, hidden)
    if not np.any(basis):
        return Redundancy(r2=0.0, by_chance=0.0, contributors=())
    values, rotation = np.linalg.eigh((basis @ basis.T).astype(np.float64))
    values = np.maximum(values, 0)
    along = rotation.T @ (basis @ vector.astype(np.float32)).astype(np.float64)
    coefficients = rotation @ (along / (values + penalty))
    explained = (values + 2 * penalty) / (values + penalty) ** 2  # of along^2, which has a factor w
    order = np.argsort(-np.abs(coefficients), kind="stable")[:NEAREST]
    return Redundancy(
        r2=float((explained * along**2).sum() / (vector @ vector)),
        by_chance=float((values * explained).sum() / len(vector)),
        contributors=tuple(Ranked(index=int(others[i]), value=float(coefficients[i])) for i in order),
    )


def _differences_without(texts: LabelledActivations, concept: int, others: Numbers) -> Numbers:
    """Return the differences of means of `others`, computed without `concept`'s texts, `(others, hidden)`."""
    sums = texts.sums[others]
    rest = len(texts.labels) - texts.counts[concept] - texts.counts[others]
    negatives = (texts.total - texts.sums[concept] - sums) / np.maximum(rest, 1)[:, None]
    differences: Numbers = sums / np.maximum(texts.counts[others], 1)[:, None] - negatives
    differences[(rest == 0) | (texts.counts[others] == 0)] = 0
    return differences
