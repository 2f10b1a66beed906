"""Whether a concept's vector is good: one number for each way in which it may not be.

Each metric uses the texts or the weights, never the vector alone. Few texts, few dimensions, or a stream that
is wide in one direction would make anything look like a finding; there the value that chance gives stands
beside the metric (`by_chance`): that of random texts in place of a concept's, which 19 of 20 such draws stay
below.

Invariant: pure, from arrays to numbers; SVD in float32. This module knows nothing about models, files or the
verdict.
"""

from dataclasses import dataclass

import numpy as np

from agents.readout.concept_vectors import Numbers
from agents.readout.quality.labelled_activations import LabelledActivations, unit

LAMBDA = 0.01
"""Penalty of the ridge regression on the other concepts, whose vectors have unit norm."""
DRAWS, QUANTILE = 40, 0.95
"""Draws of random texts, and the share of them that stays below the value called chance."""
NEAREST = 5
"""Neighbours, and contributors, that are named."""


@dataclass(frozen=True, kw_only=True)
class FirstComponent:
    """How much of a concept's texts their first principal component explains."""

    share: float
    """Of the summed squares of its texts' offsets: 0 to 1, at least 1 over the number of texts."""
    by_chance: float
    """The share for as many random texts."""
    cosine: float
    """Of the component with the concept's vector, 0 to 1: 1 if they are the same."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A concept or a text, by number, with the value that it is ranked by."""

    index: int
    value: float


@dataclass(frozen=True, kw_only=True)
class Neuron:
    """The neuron that writes most nearly along a vector."""

    index: int
    cosine: float
    by_chance: float
    """The largest absolute cosine of any neuron with the vector of as many random texts."""


@dataclass(frozen=True, kw_only=True)
class RandomTexts:
    """Results of random texts, as many at a time as a concept has."""

    shares: Numbers
    """The first principal component's share of their variance, `(draws,)`."""
    vectors: Numbers
    """The vectors that would be made of them, `(draws, hidden_size)`."""


@dataclass(frozen=True, kw_only=True)
class Redundancy:
    """How far a concept's vector is a sum of the others' vectors."""

    r2: float
    """Share of its squared length that they explain, 0 to 1."""
    by_chance: float
    """The share of a random direction that they explain."""
    contributors: tuple[Ranked, ...]
    """The other concepts with the largest coefficients, largest first, with their signs."""


def draw_random_texts(texts: LabelledActivations) -> dict[int, RandomTexts]:
    """Draw random texts for each number of texts that a concept has; always the same."""
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
    """Return the first principal component's share of each concept's variance.

    Taken about the mean of all other texts, as in the PCA of paired differences of Representation Engineering
    (arXiv 2310.01405, section 3.1), not about the concept's own mean: the texts of a clean concept all lie
    the same way from the rest. `vectors`: `(n_concepts, hidden_size)`, unit norm.
    """
    components = []
    for concept, vector in enumerate(vectors):
        share, direction = _first_component(texts.offsets(concept))
        chance = _quantile(by_chance[int(texts.counts[concept])].shares)
        cosine = float(abs(direction @ vector))
        components.append(FirstComponent(share=share, by_chance=chance, cosine=cosine))
    return components


def _first_component(offsets: Numbers) -> tuple[float, Numbers]:
    """Return the share of squares and the direction of these rows' first principal component about 0."""
    _, sizes, directions = np.linalg.svd(offsets.astype(np.float32), full_matrices=False)
    squares = float((sizes**2).sum())
    return (float(sizes[0] ** 2) / squares, directions[0]) if squares > 0 else (0.0, 0 * directions[0])


def _quantile(values: Numbers) -> float:
    return float(np.quantile(values, QUANTILE))


def alignment(texts: LabelledActivations) -> Numbers:
    """Return the cosine of each text's offset with its concept's vector, `(n_texts,)`, -1 to 1.

    The vector is estimated without the text: with it, even two random texts would seem aligned (cosine 0.7).
    NaN for a baseline and for the only text of a concept.
    """
    vectors = texts.leave_one_out_vectors()
    known = np.linalg.norm(vectors, axis=1) > 0
    cosines = np.full(len(vectors), np.nan)
    offsets = unit(texts.activations[known] - texts.negatives[texts.labels[known]])
    cosines[known] = (offsets * vectors[known]).sum(axis=1)
    return cosines


def outliers(texts: LabelledActivations, aligned: Numbers, count: int = 2) -> list[tuple[Ranked, ...]]:
    """Return for each concept the texts that are aligned worst, worst first."""
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
    """Return for each concept the neuron that writes most nearly along its vector, with the cosine, -1 to 1.

    `down`: `(hidden_size, neurons)`, the weight of the MLP's down projection, whose columns the neurons write
    to the residual stream.
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
    """Return for each concept the others with the largest cosine of their vectors, largest first."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    neighbours = []
    for row in cosines:
        order = np.argsort(-row, kind="stable")[: min(count, len(row) - 1)]
        neighbours.append(tuple(Ranked(index=int(index), value=float(row[index])) for index in order))
    return neighbours


def redundancy(texts: LabelledActivations, vectors: Numbers, penalty: float = LAMBDA) -> list[Redundancy]:
    """Regress each concept's vector on those of all others (ridge), over the `hidden_size` coordinates.

    The others are estimated as if the concept did not exist, without its texts among their negatives.
    Otherwise the answer would be 1 for any concepts: differences of means against all the rest sum to nearly
    nothing, so each is minus the sum of the others, and so are their scores. R^2 is not centred: a direction
    has no mean to subtract.
    """
    return [_redundancy(texts, vectors[concept], concept, penalty) for concept in range(len(vectors))]


def _redundancy(texts: LabelledActivations, vector: Numbers, concept: int, penalty: float) -> Redundancy:
    """Regress one concept's vector, in the eigenvectors of the others' Gram matrix.

    With an eigenvalue w the ridge keeps w / (w + penalty) of the vector along its direction (Hastie,
    Tibshirani, Friedman: The Elements of Statistical Learning, 3.47), so it explains (w^2 + 2 w penalty) / (w
    + penalty)^2 of its square.
    """
    others = np.delete(np.arange(len(texts.concepts)), concept)
    basis = unit(_differences_without(texts, concept, others)).astype(np.float32)  # (n_others, hidden)
    if not np.any(basis):
        return Redundancy(r2=0.0, by_chance=0.0, contributors=())
    values, rotation = np.linalg.eigh((basis @ basis.T).astype(np.float64))
    values = np.maximum(values, 0)
    along = rotation.T @ (basis @ vector.astype(np.float32)).astype(np.float64)
    coefficients = rotation @ (along / (values + penalty))
    explained = (values + 2 * penalty) / (values + penalty) ** 2  # of along^2, which holds a factor of w
    order = np.argsort(-np.abs(coefficients), kind="stable")[:NEAREST]
    return Redundancy(
        r2=float((explained * along**2).sum() / (vector @ vector)),
        by_chance=float((values * explained).sum() / len(vector)),
        contributors=tuple(Ranked(index=int(others[i]), value=float(coefficients[i])) for i in order),
    )


def _differences_without(texts: LabelledActivations, concept: int, others: Numbers) -> Numbers:
    """Return the other concepts' differences of means without this one's texts, `(others, hidden)`."""
    sums = texts.sums[others]
    rest = len(texts.labels) - texts.counts[concept] - texts.counts[others]
    negatives = (texts.total - texts.sums[concept] - sums) / np.maximum(rest, 1)[:, None]
    differences: Numbers = sums / np.maximum(texts.counts[others], 1)[:, None] - negatives
    differences[(rest == 0) | (texts.counts[others] == 0)] = 0
    return differences
