"""Word sets of texts and their similarity.

The dreamer and the extractor both compare texts in this way and do not import each other, so the code is
here. Invariant: pure functions.
"""

import re
from collections.abc import Set


def word_set(text: str) -> frozenset[str]:
    """Return the different words of a text, in lower case."""
    return frozenset(re.findall(r"\w+", text.lower()))


def jaccard(a: Set[str], b: Set[str]) -> float:
    """Return the Jaccard similarity of two word sets, 0 to 1; two empty sets are alike."""
    union = len(a | b)
    return len(a & b) / union if union else 1.0
