"""The filter that refuses near-duplicates of dreams, pairs and, above all, held-out scenarios.

Invariant: pure; symmetric; a text is always a near-duplicate of itself. Word sets are compared, so neither
order nor punctuation nor capitals make a dream new.
"""

from collections.abc import Iterable
from math import ceil

from corpus.text import jaccard, word_set

NEAR = 0.9
"""Jaccard similarity of the word sets from which two texts are the same situation. In texts of this length
one exchanged word (about 0.8) makes a new situation; an added "please" does not."""


class NoveltyFilter:
    """The texts that a new one must differ from."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._exact: set[frozenset[str]] = set()
        self._by_word: dict[str, list[frozenset[str]]] = {}
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Remember a text."""
        words = word_set(text)
        if words not in self._exact:
            self._exact.add(words)
            for word in words:
                self._by_word.setdefault(word, []).append(words)

    def near(self, text: str) -> bool:
        """Return whether a text like this one was added before; always true for a text without words.

        A set with a similarity of NEAR shares at least NEAR of the new text's words. So it shares at least
        one of the rarest words, when one more of them is tried than may be missing: only the lists of these
        are read.
        """
        words = word_set(text)
        if words in self._exact or not words:
            return True
        tried = len(words) - ceil(NEAR * len(words) - 1e-9) + 1  # not (1 - NEAR), which is a bit under 0.1
        rarest = sorted(words, key=lambda word: len(self._by_word.get(word, ())))[:tried]
        return any(jaccard(words, other) >= NEAR for word in rarest for other in self._by_word.get(word, ()))
