"""What readings say of an episode: the concepts that were read far over what is usual.

    score = (reading - mean of all turns so far) / their spread / FULL, at most 1

Named `read:CONCEPT`, to tell them from feelings that a turn's words show (`agents.extractor.feelings`). Invariant:
pure; a score is over 0 and at most 1, and only the `MOST` strongest are there. Knows no model.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from store.graph import READ

UNUSUAL = 1.0
"""Spreads over the mean from which a reading says something."""
FULL = 4.0
"""Spreads over the mean that are a score of 1."""
MOST = 3
"""Feelings of one episode."""
ENOUGH = 8
"""Turns in a baseline that anything can be unusual against."""


def felt(
    scores: Sequence[Sequence[float]], concepts: Sequence[str], mean: Sequence[float], spread: Sequence[float]
) -> dict[str, float]:
    """The feelings of an episode, by the scores of its turns, `(n_turns, n_concepts)`: its strongest turn counts."""
    standard = (np.array(scores) - np.array(mean)) / np.maximum(np.array(spread), 1e-6)
    strongest = standard.max(axis=0)
    order = [
        int(index) for index in np.argsort(-strongest, kind="stable")[:MOST] if strongest[index] >= UNUSUAL
    ]
    return {f"{READ}{concepts[index]}": round(min(1.0, float(strongest[index]) / FULL), 2) for index in order}


def refelt(known: Mapping[str, float], read: Mapping[str, float]) -> dict[str, float]:
    """A node's feelings with those that were read in the place of those that were read before."""
    words = {name: score for name, score in known.items() if not name.startswith(READ)}
    return {**words, **read}
