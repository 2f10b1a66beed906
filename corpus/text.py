"""Word sets of texts and their similarity.

The dreamer and the extractor both compare texts in this way. They do not import each other, so the code is
here. Invariant: pure functions.
"""

import re
from collections.abc import Set


def word_set(text: str) -> frozenset[str]:
    """Return the set of a text's words, in lower case."""
    return frozenset(re.findall(r"\w+", text.lower()))


def jaccard(a: Set[str], b: Set[str]) -> float:
    """Return the Jaccard similarity of two word sets, 0 to 1; it is 1 for two empty sets."""
    union = len(a | b)
    return len(a & b) / union if union else 1.0
