"""A filter that recognises near-duplicates, so that no dream repeats a dream or a held-out scenario.

Invariant: the result depends only on the texts added. The comparison is symmetric, and a text is always a
near-duplicate of itself. Texts are compared as sets of words, so a change of word order, punctuation or
capitals makes no text new.
"""

from collections.abc import Iterable
from math import ceil

from corpus.text import jaccard, word_set

NEAR = 0.9
"""Smallest Jaccard similarity of two texts' word sets at which the texts are near-duplicates. In texts as
long as a dream, one exchanged word (a similarity of about 0.8) makes a text new; an added "please" does
not."""
DIFFERENT = 0.7
"""The same for people's own words, which say one thing in many ways: "How do I clean a lamp?" is near to "How
do I clean the lamp?" (a similarity of 0.71)."""
HELD_OUT = 0.6
"""The same for held-out requests: what is measured must share neither wording nor subject with a dream."""


class NoveltyFilter:
    """A set of texts that a new text must differ from."""

    def __init__(self, texts: Iterable[str], threshold: float = NEAR) -> None:
        """Create a filter; texts with a similarity of `threshold` (over 0) or more are near-duplicates."""
        self._threshold = threshold
        self._exact: set[frozenset[str]] = set()
        self._by_word: dict[str, list[frozenset[str]]] = {}
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Add a text to the set."""
        words = word_set(text)
        if words not in self._exact:
            self._exact.add(words)
            for word in words:
                self._by_word.setdefault(word, []).append(words)

    def near(self, text: str) -> bool:
        """Return whether the text is a near-duplicate of a text in the set, or has no words.

        A near-duplicate lacks at most a share of 1 - `threshold` of the text's words. So if one more word is
        looked up than may be lacking, at least one of the looked-up words is in the near-duplicate. The
        rarest words are looked up, because the fewest texts contain them.
        """
        words = word_set(text)
        if words in self._exact or not words:
            return True
        # The complement, 1 - 0.9, would be just under 0.1.
        tried = len(words) - ceil(self._threshold * len(words) - 1e-9) + 1
        rarest = sorted(words, key=lambda word: len(self._by_word.get(word, ())))[:tried]
        others = (other for word in rarest for other in self._by_word.get(word, ()))
        return any(jaccard(words, other) >= self._threshold for other in others)
