"""The texts behind concept vectors as numbers, and the sums that every metric of quality starts from.

Invariant: pure; a text with no concept (a baseline) counts among the negatives of all. All arithmetic on means is
in float64, so that the order of the texts does not show. Knows no model, no file and no vector's verdict.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[Any]
"""An array of float32 or float64."""
BASELINE = -1
"""The label of a text that shows no concept."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The residual stream at the last token of each text, after one layer."""

    activations: Numbers
    """`(n_texts, hidden_size)`, in units of the residual stream."""
    labels: NDArray[np.int64]
    """`(n_texts,)`, the number of the concept that each text shows, or BASELINE."""
    concepts: tuple[str, ...]

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Texts of each concept, `(n_concepts,)`."""
        return np.bincount(self.labels[self.labels != BASELINE], minlength=len(self.concepts))

    @cached_property
    def sums(self) -> Numbers:
        """Sum of each concept's texts, `(n_concepts, hidden_size)`."""
        found = np.zeros((len(self.concepts), self.activations.shape[1]))
        shown = self.labels != BASELINE
        np.add.at(found, self.labels[shown], self.activations[shown].astype(np.float64))
        return found

    @cached_property
    def total(self) -> Numbers:
        """Sum of all texts, `(hidden_size,)`."""
        summed: Numbers = self.activations.sum(axis=0, dtype=np.float64)
        return summed

    @cached_property
    def negatives(self) -> Numbers:
        """For each concept the mean of all texts that do not show it, `(n_concepts, hidden_size)`."""
        rest = len(self.labels) - self.counts
        found: Numbers = (self.total - self.sums) / np.maximum(rest, 1)[:, None]
        return found

    @cached_property
    def differences(self) -> Numbers:
        """Difference of means of each concept (CAA, arXiv 2312.06681, section 3), `(n_concepts, hidden_size)`."""
        found: Numbers = self.sums / np.maximum(self.counts, 1)[:, None] - self.negatives
        return found

    def of(self, concept: int) -> NDArray[np.int64]:
        """Numbers of the texts that show a concept."""
        return np.flatnonzero(self.labels == concept)

    def offsets(self, concept: int) -> Numbers:
        """A concept's texts less the mean of all others, `(its texts, hidden_size)` float32."""
        found: Numbers = (self.activations[self.of(concept)] - self.negatives[concept]).astype(np.float32)
        return found

    def without_itself(self) -> Numbers:
        """For each text the unit vector of its concept, estimated without it: `(n_texts, hidden_size)`.

        Zeros for a baseline, and for the only text of a concept, of which nothing is left.
        """
        found = np.zeros(self.activations.shape)
        for text, concept in enumerate(self.labels):
            if concept != BASELINE and self.counts[concept] > 1:
                rest = (self.sums[concept] - self.activations[text]) / (self.counts[concept] - 1)
                found[text] = rest - self.negatives[concept]
        return unit(found)


def samples(activations: Numbers, labels: Sequence[str | None], concepts: tuple[str, ...]) -> Samples:
    """Texts with their concepts by name; None for a baseline."""
    number = {concept: index for index, concept in enumerate(concepts)}
    found = [BASELINE if label is None else number[label] for label in labels]
    return Samples(activations=activations, labels=np.array(found, dtype=np.int64), concepts=concepts)


def unit(vectors: Numbers) -> Numbers:
    """Each row at length 1; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    found: Numbers = vectors / np.where(lengths > 0, lengths, 1)
    return found
