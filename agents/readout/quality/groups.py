"""Whether the concept vectors together are good: clusters that hold together, and texts that are classified.

Invariant: pure; no text is scored by a vector that was estimated with that text. Clusters are given as
numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.readout.concept_vectors import Numbers
from agents.readout.quality.labelled_activations import BASELINE, LabelledActivations, unit


@dataclass(frozen=True, kw_only=True)
class Cohesion:
    """Cosines (-1 to 1) between a cluster's members, and between these and the rest."""

    within: float
    """Mean cosine of two members."""
    between: float
    """Mean cosine of a member and a concept outside."""
    members: int

    @property
    def gap(self) -> float:
        """`within` minus `between`: 0 for a cluster that does not hold together."""
        return self.within - self.between


def cohesion(vectors: Numbers, clusters: Mapping[str, Sequence[int]]) -> dict[str, Cohesion]:
    """Return the cohesion of each cluster that has two members or more and a concept outside.

    vectors: `(n_concepts, hidden_size)`, unit norm; clusters: the numbers of each one's members.
    """
    cosines = vectors @ vectors.T
    cohesions = {}
    for name, members in clusters.items():
        inside = np.zeros(len(vectors), dtype=bool)
        inside[list(members)] = True
        size = int(inside.sum())
        if size < 2 or inside.all():
            continue
        block = cosines[np.ix_(inside, inside)]
        within = float((block.sum() - np.trace(block)) / (size * (size - 1)))
        between = float(cosines[np.ix_(inside, ~inside)].mean())
        cohesions[name] = Cohesion(within=within, between=between, members=size)
    return cohesions


def classified_correctly(texts: LabelledActivations) -> NDArray[np.bool_]:
    """Return whether each text scores highest on its own concept, `(n_texts,)`; False for a baseline.

    Concept vectors are differences of means over all other texts. Scores are relative to those texts' mean,
    so that a concept along the texts' common direction has no advantage.
    """
    correct = np.zeros(len(texts.labels), dtype=bool)
    for text, concept in enumerate(texts.labels):
        if concept != BASELINE and texts.counts[concept] > 1:
            correct[text] = int(_scores(texts, text, int(concept)).argmax()) == concept
    return correct


def _scores(texts: LabelledActivations, text: int, concept: int) -> Numbers:
    """Return a text's scores, `(n_concepts,)`, with vectors of all other texts."""
    row = texts.activations[text].astype(np.float64)
    sums, counts = texts.sums.copy(), texts.counts.copy()
    sums[concept] -= row
    counts[concept] -= 1
    total, number = texts.total - row, len(texts.labels) - 1
    negatives = (total - sums) / np.maximum(number - counts, 1)[:, None]
    differences = sums / np.maximum(counts, 1)[:, None] - negatives
    scores: Numbers = unit(differences) @ (row - total / number)
    return scores
