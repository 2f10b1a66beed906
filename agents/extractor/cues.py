"""Scores of a user's turn: how strongly its words mean that the previous answer was wrong, or right.

Invariant: pure; a score is between 0 and 1. Each row of the tables in `words` counts once, however often it
matches, so repeating a complaint does not raise its score. This module knows nothing about behaviours.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from agents.extractor import words as tables

READ_CHARS = 320
"""Number of characters of a turn that are scored: a complaint comes first, pasted text below it."""
TAKEN_CHARS = 8000
"""Number of characters of a turn that are read at all, so that a huge paste takes no time."""
ENOUGH = 0.5
"""Lowest score at which a turn counts as a correction or as an approval."""

_NOT_PRAISE = re.compile(
    r"\b(?:but|however|except|although|not|n't|isn't|never|wrong|no|would be|if|can you|could you|please|"
    r"you should)\b|\?"
)

_COMPILED = {
    name: [(re.compile(pattern), weight) for pattern, weight in table]
    for name, table in (("against", tables.AGAINST), ("harmless", tables.HARMLESS), ("for", tables.FOR))
}
_CODE = re.compile(r"```(?s:.*?)(?:```|\Z)|^>[^\n]*$|^(?: {4}|\t)[^\n]*$", re.MULTILINE)
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad]")
_LEADING_NO = re.compile(r"^\W*(?:no+|nope|nah)\b")
ANSWERS_A_QUESTION = 0.45
"""Score that a leading "no" loses when the assistant had asked a question."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """The score of a turn's words."""

    score: float
    words: tuple[str, ...]
    """The words that matched and so raised the score, in the order of the text."""


def folded(text: str) -> str:
    """Return the text in lower case, with straight quotes and single spaces and no invisible characters."""
    words = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text[:TAKEN_CHARS])).lower()
    for quote in "\u2018\u2019\u02bc\u0060\u00b4":
        words = words.replace(quote, "'")
    return " ".join(words.split())


def plain(text: str) -> str:
    """Return the user's own words: the text without code and quoted lines, in the form of `folded`."""
    return folded(_CODE.sub(" ", text[:TAKEN_CHARS]))


def complains(text: str, *, after: str) -> Score:
    """Return the score of a user's turn as a complaint: how strongly it says that an answer was wrong.

    Args:
        text: The user's turn.
        after: The assistant's answer just before it. If the answer ends with a question, a leading "no" may
            only reply to the question.
    """
    words = plain(text)[:READ_CHARS]
    matches = _matches("against", words)
    score = sum(weight for _, weight in matches) - sum(weight for _, weight in _matches("harmless", words))
    if after.rstrip().endswith("?") and _LEADING_NO.match(words):
        score -= ANSWERS_A_QUESTION
    return Score(score=_clip(score), words=tuple(word for word, _ in matches))


def approves(text: str) -> Score:
    """Return the score of a user's turn as praise: how strongly it says that an answer was right."""
    words = plain(text)[:READ_CHARS]
    matches = _matches("for", words)
    score = sum(weight for _, weight in matches) - (0.5 if _NOT_PRAISE.search(words) else 0.0)
    return Score(score=_clip(score), words=tuple(word for word, _ in matches))


def mentioned(cues: Sequence[str], text: str) -> tuple[str, ...]:
    """Return the cues that occur in the text as whole words, longest first.

    A cue that is part of a longer cue in the result is left out.
    """
    words, matched = plain(text)[: 2 * READ_CHARS], list[str]()
    for cue in sorted(set(cues), key=lambda cue: (-len(cue), cue)):
        if any(cue in longer for longer in matched):
            continue
        if re.search(rf"(?<!\w){re.escape(plain(cue))}(?!\w)", words):
            matched.append(cue)
    return tuple(matched)


def _matches(name: str, words: str) -> list[tuple[str, float]]:
    """Return the words that match the named table, in the order of the text, each with its weight."""
    matches = [(match, weight) for pattern, weight in _COMPILED[name] if (match := pattern.search(words))]
    matches.sort(key=lambda pair: pair[0].start())
    return [(match.group().strip(), weight) for match, weight in matches]


def _clip(score: float) -> float:
    return round(min(1.0, max(0.0, score)), 4)
