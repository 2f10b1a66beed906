"""Which attention heads write a concept: what each one adds to the residual stream, taken apart.

What attention adds is the output projection of all heads' values side by side, so it is a sum of one part for each
head (Elhage et al., A Mathematical Framework for Transformer Circuits, 2021: attention heads are independent and
additive). Invariant: pure; a text's own part is measured along the vector that was estimated without it. Knows no
model: a layer whose attention has another layout is not given to it.
"""

from dataclasses import dataclass

import numpy as np

from agents.readout.quality.samples import Numbers, Samples

TOP = 10
"""Heads that are named of a concept."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the heads of one layer write, for each concept: `(n_concepts, heads)` each."""

    norm: Numbers
    """Length of the difference of means of what the head writes, in units of the residual stream."""
    selectivity: Numbers
    """How far what it writes along the concept's vector sets the concept's texts apart from all others: the
    difference of means in pooled standard deviations (d'). 0 for a concept with fewer than two texts."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """One head, for one concept."""

    layer: int
    head: int
    norm: float
    selectivity: float


@dataclass(frozen=True, kw_only=True)
class Writers:
    """The heads of all layers that were read, for one concept."""

    top: tuple[Head, ...]
    """The ten with the largest norm, largest first."""
    concentration: float
    """Sum of the squared shares of squared norm: 1 where one head does it all, 1 / count where all do alike."""
    count: int
    """How many heads there are."""


def parts(inputs: Numbers, out: Numbers, samples: Samples, vectors: Numbers) -> Parts:
    """Takes one layer's attention apart.

    inputs: `(n_texts, heads, head_dim)`, the input of the output projection at each text's last token; out:
    `(hidden_size, heads * head_dim)`, that projection's weight; samples: the residual stream that the vectors
    `(n_concepts, hidden_size)` lie in, of the same texts.
    """
    _, heads, width = inputs.shape
    values, weight = inputs.astype(np.float32), out.astype(np.float32)
    readers = (vectors.astype(np.float32) @ weight).reshape(-1, heads, width)
    written = values.transpose(1, 0, 2) @ readers.transpose(1, 2, 0)  # (heads, n_texts, n_concepts)
    own = (samples.without_itself().astype(np.float32) @ weight).reshape(-1, heads, width)
    held_out = (values * own).sum(axis=2)  # (n_texts, heads)
    columns = weight.reshape(len(weight), heads, width).transpose(1, 2, 0)  # (heads, head_dim, hidden)
    products = columns @ columns.transpose(
        0, 2, 1
    )  # what a head's values have in common once they are written
    norm, selectivity = [], []
    for concept in range(len(vectors)):
        mine = samples.labels == concept
        norm.append(_norms(values, mine, products))
        enough = mine.sum() > 1 and (~mine).sum() > 1
        selectivity.append(
            _apart(held_out[mine], written[:, ~mine, concept].T) if enough else np.zeros(heads)
        )
    return Parts(norm=np.stack(norm), selectivity=np.stack(selectivity))


def writers(layers: dict[int, Parts], concept: int) -> Writers:
    """The heads of several layers together, for one concept."""
    every = [
        Head(layer=layer, head=head, norm=float(norm), selectivity=float(found.selectivity[concept, head]))
        for layer, found in layers.items()
        for head, norm in enumerate(found.norm[concept])
    ]
    squares = np.array([head.norm**2 for head in every])
    total = float(squares.sum())
    shares = squares / total if total > 0 else squares
    top = sorted(every, key=lambda head: -head.norm)[:TOP]
    return Writers(top=tuple(top), concentration=float((shares**2).sum()), count=len(every))


def _norms(values: Numbers, mine: Numbers, products: Numbers) -> Numbers:
    """Length of each head's difference of means, `(heads,)`; products: `(heads, head_dim, head_dim)`."""
    if not mine.any() or mine.all():
        return np.zeros(values.shape[1])
    difference = values[mine].mean(axis=0) - values[~mine].mean(axis=0)  # (heads, head_dim)
    squares = (difference[:, None] @ products @ difference[:, :, None])[:, 0, 0]
    found: Numbers = np.sqrt(np.maximum(squares, 0))
    return found


def _apart(mine: Numbers, others: Numbers) -> Numbers:
    """Difference of means over the pooled standard deviation, `(heads,)`."""
    squares = ((mine - mine.mean(axis=0)) ** 2).sum(axis=0) + ((others - others.mean(axis=0)) ** 2).sum(
        axis=0
    )
    deviation = np.sqrt(squares / (len(mine) + len(others) - 2))
    found: Numbers = (mine.mean(axis=0) - others.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    return found
