"""Finds the attention heads that write a concept: computes each head's contribution to the residual stream.

Attention adds to the stream the output projection of all heads' outputs, laid side by side. This is a sum
with one term for each head (Elhage et al., A Mathematical Framework for Transformer Circuits, 2021: attention
heads are independent and additive).

Invariant: all functions are pure. The contribution to a text is measured along a vector that was computed
without this text. Callers pass no layer whose attention has another layout. This module knows nothing about
models.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from agents.readout.concept_vectors import Numbers
from agents.readout.quality.labelled_activations import LabelledActivations

TOP = 10
"""Number of heads that are listed for a concept."""


@dataclass(frozen=True, kw_only=True)
class HeadContributions:
    """The contributions of one layer's heads to each concept; both arrays are `(n_concepts, heads)`."""

    norm: Numbers
    """Length of the difference between the head's mean output for the concept's texts and for all other
    texts, in units of the residual stream."""
    selectivity: Numbers
    """How well the head's output along the concept's vector separates the concept's texts from all others:
    the difference of the two means in pooled standard deviations (d'). 0 for a concept with fewer than two
    texts."""


@dataclass(frozen=True, kw_only=True)
class WritingHead:
    """One head's contribution to one concept."""

    layer: int
    head: int
    norm: float
    selectivity: float


@dataclass(frozen=True, kw_only=True)
class WritingHeads:
    """The contributions of all heads of all read layers to one concept."""

    top: tuple[WritingHead, ...]
    """The ten heads with the largest norm, largest first."""
    concentration: float
    """How few heads write the concept: the sum of the squares of the heads' shares of the summed squared
    norms. It is 1 if a single head writes the concept, and 1 / count if all heads contribute equally."""
    count: int
    """Number of heads in all read layers."""


def head_contributions(
    inputs: Numbers, projection: Numbers, texts: LabelledActivations, vectors: Numbers
) -> HeadContributions:
    """Return the contributions of one layer's heads to each concept.

    Args:
        inputs: Input of the output projection at each text's last token, `(n_texts, heads, head_dim)`.
        projection: The output projection's weight, `(hidden_size, heads * head_dim)`.
        texts: The residual stream of the same texts, with their concepts.
        vectors: The concept vectors, `(n_concepts, hidden_size)`.
    """
    _, heads, width = inputs.shape
    values, weight = inputs.astype(np.float32), projection.astype(np.float32)
    readers = (vectors.astype(np.float32) @ weight).reshape(-1, heads, width)
    written = values.transpose(1, 0, 2) @ readers.transpose(1, 2, 0)  # (heads, n_texts, n_concepts)
    own = (texts.leave_one_out_vectors().astype(np.float32) @ weight).reshape(-1, heads, width)
    held_out = (values * own).sum(axis=2)  # (n_texts, heads)
    columns = weight.reshape(len(weight), heads, width).transpose(1, 2, 0)  # (heads, head_dim, hidden)
    products = columns @ columns.transpose(0, 2, 1)  # scalar products of the columns that a head writes
    norm, selectivity = [], []
    for concept in range(len(vectors)):
        mine = texts.labels == concept
        norm.append(_norms(values, mine, products))
        enough = mine.sum() > 1 and (~mine).sum() > 1
        others = written[:, ~mine, concept].T
        selectivity.append(_separation(held_out[mine], others) if enough else np.zeros(heads))
    return HeadContributions(norm=np.stack(norm), selectivity=np.stack(selectivity))


def writing_heads(layers: Mapping[int, HeadContributions], concept: int) -> WritingHeads:
    """Return the contributions of all these layers' heads to one concept."""
    every = [
        WritingHead(
            layer=layer,
            head=head,
            norm=float(norm),
            selectivity=float(contributions.selectivity[concept, head]),
        )
        for layer, contributions in layers.items()
        for head, norm in enumerate(contributions.norm[concept])
    ]
    squares = np.array([head.norm**2 for head in every])
    total = float(squares.sum())
    shares = squares / total if total > 0 else squares
    top = sorted(every, key=lambda head: -head.norm)[:TOP]
    return WritingHeads(top=tuple(top), concentration=float((shares**2).sum()), count=len(every))


def _norms(values: Numbers, mine: Numbers, products: Numbers) -> Numbers:
    """Return the length of the difference between each head's mean outputs, `(heads,)`.

    Args:
        values: Input of the output projection, `(n_texts, heads, head_dim)`.
        mine: Whether each text shows the concept, `(n_texts,)`.
        products: Scalar products of the columns that each head writes, `(heads, head_dim, head_dim)`.
    """
    if not mine.any() or mine.all():
        return np.zeros(values.shape[1])
    difference = values[mine].mean(axis=0) - values[~mine].mean(axis=0)  # (heads, head_dim)
    squares = (difference[:, None] @ products @ difference[:, :, None])[:, 0, 0]
    norms: Numbers = np.sqrt(np.maximum(squares, 0))
    return norms


def _separation(mine: Numbers, others: Numbers) -> Numbers:
    """Return the difference of the two means, divided by the pooled standard deviation, `(heads,)`."""
    own_squares = ((mine - mine.mean(axis=0)) ** 2).sum(axis=0)
    squares = own_squares + ((others - others.mean(axis=0)) ** 2).sum(axis=0)
    deviation = np.sqrt(squares / (len(mine) + len(others) - 2))
    separation: Numbers = (mine.mean(axis=0) - others.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    return separation
