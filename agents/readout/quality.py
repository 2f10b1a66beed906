"""Whether a concept's vector is any good: one number for each way in which it may not be.

Each metric asks the texts or the weights, never the vector alone, and where few texts or dimensions would make
noise look like a finding, the value that noise gives stands beside it (`..._by_chance`).
Invariant: pure: arrays in, numbers out; SVD in float32. Knows no model, no file and no words for a verdict.
"""

from dataclasses import dataclass

import numpy as np

from agents.readout.samples import Numbers, Samples, unit

LAMBDA = 0.01
"""Of the ridge regression on the other concepts; they have unit norm."""
NEAREST = 5
"""Neighbours, and contributors, that are named."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How much of a concept's texts one direction explains."""

    share: float
    """Of the summed squares of its texts' offsets: 0 to 1, at least 1 over the number of texts."""
    by_chance: float
    """What isotropic noise in as many texts and dimensions gives."""
    cosine: float
    """Of that direction with the concept's vector, 0 to 1: whether the two are the same."""


@dataclass(frozen=True, kw_only=True)
class Named:
    """A number that belongs to a concept, a neuron or a text."""

    index: int
    value: float


@dataclass(frozen=True, kw_only=True)
class Redundancy:
    """How far a concept's vector is a sum of the others'."""

    r2: float
    """Share of its squared length that they explain, 0 to 1."""
    by_chance: float
    """The share of a random direction that they explain."""
    contributors: tuple[Named, ...]
    """The other concepts with the largest coefficients, largest first, with their signs."""


def first_pc(samples: Samples, vectors: Numbers) -> list[Spread]:
    """The first principal component's share of each concept's variance.

    Taken about the mean of all other texts, as in the PCA of paired differences of Representation Engineering
    (arXiv 2310.01405, section 3.1), not about the concept's own mean: a clean concept is one whose texts all lie
    the same way from the rest. `vectors`: `(n_concepts, hidden_size)`, unit norm. By chance: the upper edge of
    Marchenko and Pastur's law, (1 + sqrt(n / hidden_size))^2 / n.
    """
    found = []
    for concept, vector in enumerate(vectors):
        offsets = samples.offsets(concept)
        count, hidden = offsets.shape
        _, sizes, directions = np.linalg.svd(offsets, full_matrices=False)
        squares = float((sizes**2).sum())
        share = float(sizes[0] ** 2) / squares if squares > 0 else 0.0
        cosine = float(abs(directions[0] @ vector)) if squares > 0 else 0.0
        chance = min(1.0, (1 + (count / hidden) ** 0.5) ** 2 / count) if count else 1.0
        found.append(Spread(share=share, by_chance=chance, cosine=cosine))
    return found


def alignment(samples: Samples) -> Numbers:
    """Cosine of each text's offset with its concept's vector estimated without it, `(n_texts,)`, -1 to 1.

    With the vector that was made of the text itself two random texts would seem aligned (cosine 0.7). NaN for a
    baseline and for the only text of a concept.
    """
    others = samples.without_itself()
    known = np.linalg.norm(others, axis=1) > 0
    found = np.full(len(others), np.nan)
    offsets = unit(samples.activations[known] - samples.negatives[samples.labels[known]])
    found[known] = (offsets * others[known]).sum(axis=1)
    return found


def outliers(samples: Samples, aligned: Numbers, count: int = 2) -> list[tuple[Named, ...]]:
    """For each concept the texts that are aligned worst, worst first."""
    found = []
    for concept in range(len(samples.concepts)):
        mine = samples.of(concept)
        mine = mine[~np.isnan(aligned[mine])]
        worst = mine[np.argsort(aligned[mine], kind="stable")[:count]]
        found.append(tuple(Named(index=int(text), value=float(aligned[text])) for text in worst))
    return found


def neuron(vectors: Numbers, down: Numbers) -> list[Named]:
    """For each concept the neuron that writes most nearly along its vector, and the cosine, -1 to 1.

    down: `(hidden_size, neurons)`, the weight of the MLP's down projection: its columns are what the neurons
    write to the residual stream.
    """
    cosines = vectors.astype(np.float32) @ unit(down.astype(np.float32).T).T
    best = np.abs(cosines).argmax(axis=1)
    return [Named(index=int(index), value=float(row[index])) for index, row in zip(best, cosines, strict=True)]


def nearest(vectors: Numbers, count: int = NEAREST) -> list[tuple[Named, ...]]:
    """For each concept the others whose vectors have the largest cosine with its own, largest first."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    found = []
    for row in cosines:
        order = np.argsort(-row, kind="stable")[: min(count, len(row) - 1)]
        found.append(tuple(Named(index=int(index), value=float(row[index])) for index in order))
    return found


def redundancy(samples: Samples, vectors: Numbers, penalty: float = LAMBDA) -> list[Redundancy]:
    """Ridge regression of each concept's vector on those of all others, over the `hidden_size` coordinates.

    The others are estimated as if the concept did not exist, its texts left out of their negatives. Otherwise the
    answer would be 1 whatever the concepts: differences of means against all the rest sum to nearly nothing, so
    that each is minus the sum of the others, and so are the scores read with them. R^2 is not centred: a
    direction has no mean to take away.
    """
    return [_redundancy(samples, vectors[concept], concept, penalty) for concept in range(len(vectors))]


def _redundancy(samples: Samples, vector: Numbers, concept: int, penalty: float) -> Redundancy:
    """The same for one concept. With the others' singular values s and directions u the ridge keeps s^2 / (s^2 +
    penalty) of what lies along u (Hastie, Tibshirani, Friedman: The Elements of Statistical Learning, 3.47)."""
    others = np.delete(np.arange(len(samples.concepts)), concept)
    basis = unit(_without(samples, concept, others)).astype(np.float32)  # (n_others, hidden)
    if not np.any(basis):
        return Redundancy(r2=0.0, by_chance=0.0, contributors=())
    left, sizes, right = np.linalg.svd(basis, full_matrices=False)
    kept = sizes**2 / (sizes**2 + penalty)
    along = right @ vector.astype(np.float32)
    coefficients = left @ (sizes / (sizes**2 + penalty) * along)
    explained = 1 - (1 - kept) ** 2
    order = np.argsort(-np.abs(coefficients), kind="stable")[:NEAREST]
    return Redundancy(
        r2=float((explained * along**2).sum() / (vector @ vector)),
        by_chance=float(explained.sum() / len(vector)),
        contributors=tuple(Named(index=int(others[i]), value=float(coefficients[i])) for i in order),
    )


def _without(samples: Samples, concept: int, others: Numbers) -> Numbers:
    """Differences of means of the other concepts over the texts that do not show this one, `(others, hidden)`."""
    mine = samples.sums[others]
    rest = len(samples.labels) - samples.counts[concept] - samples.counts[others]
    negatives = (samples.total - samples.sums[concept] - mine) / np.maximum(rest, 1)[:, None]
    found: Numbers = mine / np.maximum(samples.counts[others], 1)[:, None] - negatives
    found[(rest == 0) | (samples.counts[others] == 0)] = 0
    return found
