"""Readings of a conversation: the text to read for each turn, and the feelings that the scores show.

Turns are read like the texts of the concept sets: one line of plain text, without the chat template, whose
markers would make all last tokens alike. A text of the embedded model's world is one exchange, and a model so
small loses an answer in a longer text, so there a turn is read together with the one before it; elsewhere,
with all turns before it.

Feelings come from concepts that were read far above their usual scores:

    feeling = (score - mean of all turns so far) / their standard deviation / FULL, at most 1

They are named `read:CONCEPT`, to distinguish them from feelings that a turn's words show
(`agents.extractor.feelings`).

Invariant: pure; the reading of a turn never depends on a later turn. A feeling is above 0 and at most 1, and
only the `MOST` strongest are given. This module knows nothing about tokens or models.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from corpus.concept_sets import NAMES, load
from store.graph import READ

WINDOW: dict[str, int | None] = {"world": 2, "states": None}
"""By concept set: number of turns that are read together, ending with the turn itself; None for all."""
UNUSUAL = 1.0
"""Standard deviations above the mean from which a score is a feeling."""
FULL = 4.0
"""Standard deviations above the mean that make a feeling of 1."""
MOST = 3
"""Feelings of one episode."""
ENOUGH_TURNS = 8
"""Turns that a baseline needs before a score can be unusual."""


def window_of(concepts: Sequence[str]) -> int | None:
    """Return how many turns are read together with concept vectors of these concepts."""
    return next((WINDOW[name] for name in NAMES if load(name).concepts == tuple(concepts)), None)


def turn_texts(texts: Sequence[str], window: int | None = None) -> list[str]:
    """Return for each turn its words after those of the turns before it, separated by spaces."""
    lines = [" ".join(text.split()) for text in texts]
    starts = [0 if window is None else max(0, end - window) for end in range(1, len(lines) + 1)]
    return [" ".join(line for line in lines[start:end] if line) for end, start in enumerate(starts, start=1)]


def read_feelings(
    scores: Sequence[Sequence[float]],
    concepts: Sequence[str],
    mean: Sequence[float],
    standard_deviation: Sequence[float],
) -> dict[str, float]:
    """Return the feelings of an episode; the strongest turn of its `(n_turns, n_concepts)` scores counts."""
    standardised = (np.array(scores) - np.array(mean)) / np.maximum(np.array(standard_deviation), 1e-6)
    strongest = standardised.max(axis=0)
    order = np.argsort(-strongest, kind="stable")[:MOST]
    return {
        f"{READ}{concepts[index]}": round(min(1.0, float(strongest[index]) / FULL), 2)
        for index in order
        if strongest[index] >= UNUSUAL
    }


def replace_read_feelings(known: Mapping[str, float], read: Mapping[str, float]) -> dict[str, float]:
    """Return a node's feelings with newly read ones in place of those that were read before."""
    words = {name: score for name, score in known.items() if not name.startswith(READ)}
    return {**words, **read}
