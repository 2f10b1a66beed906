"""Whether a concept's vector is any good: one number for each way in which it may not be.

Each metric asks the texts or the weights, never the vector alone, and where few texts, few dimensions or a stream
that is wide in one direction would make anything look like a finding, the value that chance gives stands beside it
(`by_chance`): that of random texts, taken from all as if they were a concept's, which 19 of 20 such draws stay under.
Invariant: pure: arrays in, numbers out; SVD in float32. Knows no model, no file and no words for a verdict.
"""

from dataclasses import dataclass

import numpy as np

from agents.readout.quality.samples import Numbers, Samples, unit

LAMBDA = 0.01
"""Of the ridge regression on the other concepts; they have unit norm."""
DRAWS, QUANTILE = 40, 0.95
"""Draws of random texts, and the share of them that stays under what is called chance."""
NEAREST = 5
"""Neighbours, and contributors, that are named."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How much of a concept's texts one direction explains."""

    share: float
    """Of the summed squares of its texts' offsets: 0 to 1, at least 1 over the number of texts."""
    by_chance: float
    """The share for random texts, as many."""
    cosine: float
    """Of that direction with the concept's vector, 0 to 1: whether the two are the same."""


@dataclass(frozen=True, kw_only=True)
class Named:
    """A number that belongs to a concept or a text."""

    index: int
    value: float


@dataclass(frozen=True, kw_only=True)
class Neuron:
    """The neuron that writes most nearly along a vector."""

    index: int
    cosine: float
    by_chance: float
    """The largest absolute cosine of any neuron with the vector of random texts, as many."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What random texts give, so many at a time."""

    shares: Numbers
    """`(draws,)`, the first principal component's share of their variance."""
    vectors: Numbers
    """`(draws, hidden_size)`, the vectors that would be made of them."""


@dataclass(frozen=True, kw_only=True)
class Redundancy:
    """How far a concept's vector is a sum of the others'."""

    r2: float
    """Share of its squared length that they explain, 0 to 1."""
    by_chance: float
    """The share of a random direction that they explain."""
    contributors: tuple[Named, ...]
    """The other concepts with the largest coefficients, largest first, with their signs."""


def drawn(samples: Samples) -> dict[int, Drawn]:
    """Random texts in the place of a concept's, for each number of texts that a concept has; the same each time."""
    found = {}
    for size in sorted({int(count) for count in samples.counts if 0 < count < len(samples.labels)}):
        draw = np.random.default_rng(size)
        shares, vectors = [], []
        for _ in range(DRAWS):
            mine = samples.activations[draw.choice(len(samples.labels), size, replace=False)]
            rest = (samples.total - mine.sum(axis=0)) / (len(samples.labels) - size)
            shares.append(_first(mine - rest)[0])
            vectors.append(mine.mean(axis=0) - rest)
        found[size] = Drawn(shares=np.array(shares), vectors=unit(np.stack(vectors)))
    return found


def first_pc(samples: Samples, vectors: Numbers, by_chance: dict[int, Drawn]) -> list[Spread]:
    """The first principal component's share of each concept's variance.

    Taken about the mean of all other texts, as in the PCA of paired differences of Representation Engineering
    (arXiv 2310.01405, section 3.1), not about the concept's own mean: a clean concept is one whose texts all lie
    the same way from the rest. `vectors`: `(n_concepts, hidden_size)`, unit norm.
    """
    found = []
    for concept, vector in enumerate(vectors):
        share, direction = _first(samples.offsets(concept))
        chance = _chance(by_chance[int(samples.counts[concept])].shares)
        found.append(Spread(share=share, by_chance=chance, cosine=float(abs(direction @ vector))))
    return found


def _first(offsets: Numbers) -> tuple[float, Numbers]:
    """The first principal component of these rows about 0: its share of their squares, and its direction."""
    _, sizes, directions = np.linalg.svd(offsets.astype(np.float32), full_matrices=False)
    squares = float((sizes**2).sum())
    return (float(sizes[0] ** 2) / squares, directions[0]) if squares > 0 else (0.0, 0 * directions[0])


def _chance(values: Numbers) -> float:
    return float(np.quantile(values, QUANTILE))


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


def neuron(samples: Samples, vectors: Numbers, down: Numbers, by_chance: dict[int, Drawn]) -> list[Neuron]:
    """For each concept the neuron that writes most nearly along its vector, and the cosine, -1 to 1.

    down: `(hidden_size, neurons)`, the weight of the MLP's down projection: its columns are what the neurons
    write to the residual stream.
    """
    columns = unit(down.astype(np.float32).T)
    chance = {size: _chance(np.abs(one.vectors @ columns.T).max(axis=1)) for size, one in by_chance.items()}
    cosines = vectors.astype(np.float32) @ columns.T
    best = np.abs(cosines).argmax(axis=1)
    return [
        Neuron(index=int(index), cosine=float(row[index]), by_chance=chance[int(count)])
        for index, row, count in zip(best, cosines, samples.counts, strict=True)
    ]


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
    """The same for one concept, in the eigenvectors of the others' Gram matrix: with an eigenvalue w the ridge keeps
    w / (w + penalty) of what lies along its direction (Hastie, Tibshirani, Friedman: The Elements of Statistical
    Learning, 3.47), and so explains (w^2 + 2 w penalty) / (w + penalty)^2 of its square."""
    others = np.delete(np.arange(len(samples.concepts)), concept)
    basis = unit(_without(samples, concept, others)).astype(np.float32)  # (n_others, hidden)
    if not np.any(basis):
        return Redundancy(r2=0.0, by_chance=0.0, contributors=())
    values, turn = np.linalg.eigh((basis @ basis.T).astype(np.float64))
    values = np.maximum(values, 0)
    along = turn.T @ (basis @ vector.astype(np.float32)).astype(np.float64)
    coefficients = turn @ (along / (values + penalty))
    explained = (values + 2 * penalty) / (values + penalty) ** 2  # of along^2, which holds a factor of w
    order = np.argsort(-np.abs(coefficients), kind="stable")[:NEAREST]
    return Redundancy(
        r2=float((explained * along**2).sum() / (vector @ vector)),
        by_chance=float((values * explained).sum() / len(vector)),
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
