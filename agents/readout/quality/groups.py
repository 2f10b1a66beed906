"""Measures concept vectors together: how similar a cluster's vectors are, and whether texts are recognised.

Invariant: all functions are pure. No text is scored by a vector that was computed with this text. Concepts
are identified by their numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.readout.concept_vectors import Numbers
from agents.readout.quality.labelled_activations import BASELINE, LabelledActivations, unit


@dataclass(frozen=True, kw_only=True)
class Cohesion:
    """Mean cosines (-1 to 1) within one cluster of concepts, and between the cluster and the others."""

    within: float
    """Mean cosine of two vectors of the cluster."""
    between: float
    """Mean cosine of a vector of the cluster and a vector outside."""
    members: int

    @property
    def gap(self) -> float:
        """`within` minus `between`: 0 if the cluster's vectors are no more similar than other vectors."""
        return self.within - self.between


def cohesion(vectors: Numbers, clusters: Mapping[str, Sequence[int]]) -> dict[str, Cohesion]:
    """Return the cohesion of each cluster that has at least two concepts and does not have all concepts.

    Args:
        vectors: The concept vectors, `(n_concepts, hidden_size)`, unit norm.
        clusters: Numbers of the concepts in each cluster.
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

    The vectors for a text are differences of means over all other texts. Scores are relative to the mean of
    these other texts, so that a concept along the common direction of all texts has no advantage.
    """
    correct = np.zeros(len(texts.labels), dtype=bool)
    for text, concept in enumerate(texts.labels):
        if concept != BASELINE and texts.counts[concept] > 1:
            correct[text] = int(_scores(texts, text, int(concept)).argmax()) == concept
    return correct


def _scores(texts: LabelledActivations, text: int, concept: int) -> Numbers:
    """Return a text's scores, `(n_concepts,)`, along vectors that are computed from all other texts."""
    row = texts.activations[text].astype(np.float64)
    sums, counts = texts.sums.copy(), texts.counts.copy()
    sums[concept] -= row
    counts[concept] -= 1
    total, number = texts.total - row, len(texts.labels) - 1
    negatives = (total - sums) / np.maximum(number - counts, 1)[:, None]
    differences = sums / np.maximum(counts, 1)[:, None] - negatives
    scores: Numbers = unit(differences) @ (row - total / number)
    return scores
