"""Prepares the readings of a conversation: the text to read for each turn, and the feelings in the scores.

Turns are read like the texts of the concept sets: as one line of plain text, without the chat template, whose
markers would make all last tokens alike. With the embedded model, a turn is read together with the turn
before it: each text of its concept set is one exchange, and so small a model loses track in a longer text.
With other models, a turn is read together with all turns before it.

A concept whose score is far above its usual scores gives a feeling:

    feeling = (score - mean of all turns so far) / their standard deviation / FULL, at most 1

Such a feeling is named `read:CONCEPT`, to distinguish it from the feelings that the extractor finds in a
turn's words (`agents.extractor.feelings`).

Invariant: all functions are pure, and the reading of a turn never depends on a later turn. A feeling is above
0 and at most 1, and only the `MOST` strongest feelings are returned. This module knows nothing about tokens
or models.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from corpus.concept_sets import NAMES, load
from store.graph import READ

WINDOW: dict[str, int | None] = {"world": 2, "states": None}
"""By concept set: how many turns are read together, the turn itself and those before it; None for all."""
UNUSUAL = 1.0
"""Number of standard deviations above the mean from which a score gives a feeling."""
FULL = 4.0
"""Number of standard deviations above the mean at which a feeling is 1."""
MOST = 3
"""Most feelings of one episode."""
ENOUGH_TURNS = 8
"""Number of turns that must have been read before a score can give a feeling."""


def window_of(concepts: Sequence[str]) -> int | None:
    """Return how many turns are read together by vectors of these concepts; None for all turns so far."""
    return next((WINDOW[name] for name in NAMES if load(name).concepts == tuple(concepts)), None)


def turn_texts(texts: Sequence[str], window: int | None = None) -> list[str]:
    """Return the text to read for each turn: the words of earlier turns, then its own, as one line.

    `window`: how many turns a text has at most, the turn itself included; None for all turns so far.
    """
    lines = [" ".join(text.split()) for text in texts]
    starts = [0 if window is None else max(0, end - window) for end in range(1, len(lines) + 1)]
    return [" ".join(line for line in lines[start:end] if line) for end, start in enumerate(starts, start=1)]


def read_feelings(
    scores: Sequence[Sequence[float]],
    concepts: Sequence[str],
    mean: Sequence[float],
    standard_deviation: Sequence[float],
) -> dict[str, float]:
    """Return the feelings that an episode's scores give, each between 0 and 1, by name.

    Args:
        scores: `(n_turns, n_concepts)`. For each concept, the turn with the highest score counts.
        concepts: Names of the concepts.
        mean: Each concept's mean score over all turns so far.
        standard_deviation: Each concept's standard deviation over all turns so far.
    """
    standardised = (np.array(scores) - np.array(mean)) / np.maximum(np.array(standard_deviation), 1e-6)
    strongest = standardised.max(axis=0)
    order = np.argsort(-strongest, kind="stable")[:MOST]
    return {
        f"{READ}{concepts[index]}": round(min(1.0, float(strongest[index]) / FULL), 2)
        for index in order
        if strongest[index] >= UNUSUAL
    }


def replace_read_feelings(known: Mapping[str, float], read: Mapping[str, float]) -> dict[str, float]:
    """Return a node's feelings, with `read` in place of the `read:` feelings among `known`."""
    words = {name: score for name, score in known.items() if not name.startswith(READ)}
    return {**words, **read}
