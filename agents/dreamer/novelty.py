"""Whether a dream is new: near-duplicates of dreams, pairs and above all held-out scenarios are refused.

Invariant: pure; symmetric; a text is always a near-duplicate of itself. Word sets are compared, so neither
order nor punctuation nor capitals make a dream new.
"""

from collections.abc import Iterable
from math import ceil

from corpus.text import jaccard, word_set

NEAR = 0.9
"""Jaccard similarity of the word sets from which two texts are the same situation: in this length of text one
exchanged word (about 0.8) is a new situation, an added "please" is not."""


class NoveltyFilter:
    """Texts that a new one must differ from."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._exact: set[frozenset[str]] = set()
        self._by_word: dict[str, list[frozenset[str]]] = {}
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Remember a text."""
        found = word_set(text)
        if found not in self._exact:
            self._exact.add(found)
            for word in found:
                self._by_word.setdefault(word, []).append(found)

    def near(self, text: str) -> bool:
        """Whether a text like this one has been seen.

        A set with a similarity of NEAR shares at least NEAR of the new text's words, so of its rarest words,
        one more than it may lack, one is shared: only their lists need to be read.
        """
        found = word_set(text)
        if found in self._exact or not found:
            return True
        spare = len(found) - ceil(NEAR * len(found) - 1e-9) + 1  # not (1 - NEAR): it is a bit under 0.1
        rare = sorted(found, key=lambda word: len(self._by_word.get(word, ())))[:spare]
        return any(jaccard(found, other) >= NEAR for word in rare for other in self._by_word.get(word, ()))
