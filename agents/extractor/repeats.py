"""Whether a turn asks for the same as an earlier one: by its content words, or by pairs of letters.

Invariant: pure. Inflections, articles, numbers in words and polite phrases make no difference. Two requests
with different numbers are never the same.
"""

import re
from functools import lru_cache

from agents.extractor.cues import plain
from agents.extractor.tables import form, recognised, tables
from corpus.text import jaccard

READ_CHARS = 2000
"""Number of characters of each request that are compared."""
STEM = 5
"""Number of letters of a longer word that are compared, so that its endings make no difference."""
PAIRS_ARE_HARSH = 1.25
"""Factor for scripts without spaces: one other letter changes two pairs."""

_WORD = re.compile(r"[\w']+")
_UNSPACED = re.compile("[\u3041-\u30ff\u3400-\u9fff]")


def similarity(one: str, other: str) -> float:
    """Return how alike two requests are, 0 to 1: the Jaccard similarity of their content words.

    In Chinese and Japanese, pairs of letters take the place of words. If a request has fewer than two content
    words, the result is 1 for equal texts of at least three words, else 0.
    """
    first, second = form(plain(one)[:READ_CHARS]), form(plain(other)[:READ_CHARS])
    if _UNSPACED.search(first) and _UNSPACED.search(second):
        return min(1.0, PAIRS_ARE_HARSH * jaccard(_pairs(first), _pairs(second)))
    codes = tuple(sorted({language.code for language in recognised(second, first)}))
    a, b = _content(first, codes), _content(second, codes)
    if min(len(a), len(b)) < 2:
        return 1.0 if first == second and len(first.split()) > 2 else 0.0
    numbers = [{word for word in words if word.isdigit()} for words in (a, b)]
    return 0.0 if all(numbers) and numbers[0] != numbers[1] else jaccard(a, b)


@lru_cache(64)
def _light(codes: tuple[str, ...]) -> dict[str, str]:
    """Return the fillers of these languages, each with "", and the words for numbers with their digits."""
    languages = [tables()[code] for code in codes]
    fillers = {word: "" for language in languages for word in language.fillers}
    return {word: at for language in languages for word, at in language.numbers.items()} | fillers


def _content(text: str, codes: tuple[str, ...]) -> set[str]:
    """Return the stems of the words that are no fillers, with small numbers as digits."""
    light = _light(codes)
    words = {light.get(word, _stem(word)) for word in (found.strip("'") for found in _WORD.findall(text))}
    return words - {""}


def _stem(word: str) -> str:
    return word[:STEM] if len(word) > STEM or word.isdigit() else word.rstrip("s") or word


def _pairs(text: str) -> set[str]:
    letters = re.sub(r"\W", "", text)
    return {letters[at : at + 2] for at in range(len(letters) - 1)}
