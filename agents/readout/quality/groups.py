"""Whether the vectors together are any good: clusters that hold together, and texts that are told apart.

Invariant: pure; nothing is scored by a vector that the scored text helped to make. Knows no manifest: clusters are
given as numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.readout.quality.samples import BASELINE, Numbers, Samples, unit


@dataclass(frozen=True, kw_only=True)
class Cohesion:
    """How much nearer a cluster's members are to each other than to the rest: cosines, -1 to 1."""

    within: float
    """Mean cosine of two members."""
    between: float
    """Mean cosine of a member and a concept outside."""
    members: int

    @property
    def gap(self) -> float:
        """`within` less `between`: 0 for a cluster that is none."""
        return self.within - self.between


def cohesion(vectors: Numbers, clusters: Mapping[str, Sequence[int]]) -> dict[str, Cohesion]:
    """Of each cluster with two members or more, where there is a concept outside.

    vectors: `(n_concepts, hidden_size)`, unit norm; clusters: the numbers of each one's members.
    """
    cosines = vectors @ vectors.T
    found = {}
    for name, members in clusters.items():
        inside = np.zeros(len(vectors), dtype=bool)
        inside[list(members)] = True
        size = int(inside.sum())
        if size < 2 or inside.all():
            continue
        block = cosines[np.ix_(inside, inside)]
        within = float((block.sum() - np.trace(block)) / (size * (size - 1)))
        between = float(cosines[np.ix_(inside, ~inside)].mean())
        found[name] = Cohesion(within=within, between=between, members=size)
    return found


def told_apart(samples: Samples) -> NDArray[np.bool_]:
    """Leave one story out: whether each text scores highest on its own concept, `(n_texts,)`; False for a baseline.

    Vectors are differences of means over all other texts; scores are taken about those texts' mean, so that a
    concept with a long projection of what all texts share is not favoured.
    """
    found = np.zeros(len(samples.labels), dtype=bool)
    for text, concept in enumerate(samples.labels):
        if concept != BASELINE and samples.counts[concept] > 1:
            found[text] = int(_scores(samples, text, int(concept)).argmax()) == concept
    return found


def _scores(samples: Samples, text: int, concept: int) -> Numbers:
    """A text's scores, `(n_concepts,)`, by the vectors of all others."""
    row = samples.activations[text].astype(np.float64)
    sums, counts = samples.sums.copy(), samples.counts.copy()
    sums[concept] -= row
    counts[concept] -= 1
    total, number = samples.total - row, len(samples.labels) - 1
    negatives = (total - sums) / np.maximum(number - counts, 1)[:, None]
    differences = sums / np.maximum(counts, 1)[:, None] - negatives
    found: Numbers = unit(differences) @ (row - total / number)
    return found
