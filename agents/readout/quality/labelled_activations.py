"""The activations of the texts behind concept vectors, and sums of these activations for all metrics.

Invariant: all functions are pure. A text that shows no concept (a baseline) counts among the negatives of
every concept. Means are computed in float64, so that the order of the texts does not matter. This module
knows nothing about models or files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from agents.readout.concept_vectors import Numbers

BASELINE = -1
"""The label of a text that shows no concept."""


@dataclass(frozen=True, kw_only=True)
class LabelledActivations:
    """The residual stream at the last token of each text, after one layer, with the texts' concepts."""

    activations: Numbers
    """The residual stream, `(n_texts, hidden_size)`."""
    labels: NDArray[np.int64]
    """For each text, the number of its concept, or BASELINE, `(n_texts,)`."""
    concepts: tuple[str, ...]

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Number of texts of each concept, `(n_concepts,)`."""
        return np.bincount(self.labels[self.labels != BASELINE], minlength=len(self.concepts))

    @cached_property
    def sums(self) -> Numbers:
        """Sum of the activations of each concept's texts, `(n_concepts, hidden_size)`."""
        sums = np.zeros((len(self.concepts), self.activations.shape[1]))
        shown = self.labels != BASELINE
        np.add.at(sums, self.labels[shown], self.activations[shown].astype(np.float64))
        return sums

    @cached_property
    def total(self) -> Numbers:
        """Sum of the activations of all texts, `(hidden_size,)`."""
        summed: Numbers = self.activations.sum(axis=0, dtype=np.float64)
        return summed

    @cached_property
    def negatives(self) -> Numbers:
        """For each concept, the mean of all texts that do not show it, `(n_concepts, hidden_size)`."""
        rest = len(self.labels) - self.counts
        means: Numbers = (self.total - self.sums) / np.maximum(rest, 1)[:, None]
        return means

    @cached_property
    def differences(self) -> Numbers:
        """Mean of each concept's texts minus `negatives`, `(n_concepts, hidden_size)`.

        Source: CAA, arXiv 2312.06681, section 3.
        """
        differences: Numbers = self.sums / np.maximum(self.counts, 1)[:, None] - self.negatives
        return differences

    def of(self, concept: int) -> NDArray[np.int64]:
        """Return the numbers of the texts that show a concept."""
        return np.flatnonzero(self.labels == concept)

    def offsets(self, concept: int) -> Numbers:
        """Return the activations of a concept's texts minus the mean of all other texts, as float32."""
        offsets: Numbers = (self.activations[self.of(concept)] - self.negatives[concept]).astype(np.float32)
        return offsets

    def leave_one_out_vectors(self) -> Numbers:
        """Return for each text its concept's unit vector, computed without the text.

        The result is `(n_texts, hidden_size)`. The row is zero for a baseline and for the only text of a
        concept.
        """
        vectors = np.zeros(self.activations.shape)
        for text, concept in enumerate(self.labels):
            if concept != BASELINE and self.counts[concept] > 1:
                rest = (self.sums[concept] - self.activations[text]) / (self.counts[concept] - 1)
                vectors[text] = rest - self.negatives[concept]
        return unit(vectors)


def label_activations(
    activations: Numbers, labels: Sequence[str | None], concepts: tuple[str, ...]
) -> LabelledActivations:
    """Return the activations as a record; `labels`: name of each text's concept, None for a baseline."""
    numbers = {concept: index for index, concept in enumerate(concepts)}
    labelled = [BASELINE if label is None else numbers[label] for label in labels]
    return LabelledActivations(
        activations=activations, labels=np.array(labelled, dtype=np.int64), concepts=concepts
    )


def unit(vectors: Numbers) -> Numbers:
    """Return the vectors with each row scaled to length 1; a row of zeros stays zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Numbers = vectors / np.where(lengths > 0, lengths, 1)
    return scaled
