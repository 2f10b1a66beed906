"""Reads from a turn's words how much it says that the answer before it was wrong, or right.

Invariant: pure; a score is between 0 and 1 and depends on the words alone. Each row of `words` counts once,
however often it matches, so nobody is louder by repeating himself. Knows no behaviour: that is for others.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from agents.extractor import words as tables

READ_CHARS = 320
"""Characters of a turn that are read: a complaint comes first, and what is pasted below it is not one."""
TAKEN_CHARS = 8000
"""Characters of a turn that are taken up at all, so that a huge paste costs nothing."""
ENOUGH = 0.5
"""Score from which a turn is a correction, or an approval."""

_NOT_FOR = re.compile(
    r"\b(?:but|however|except|although|not|n't|isn't|never|wrong|no|would be|if|can you|could you|please|"
    r"you should)\b|\?"
)

_COMPILED = {
    name: [(re.compile(pattern), weight) for pattern, weight in table]
    for name, table in (("against", tables.AGAINST), ("harmless", tables.HARMLESS), ("for", tables.FOR))
}
_CODE = re.compile(r"```(?s:.*?)(?:```|\Z)|^>[^\n]*$|^(?: {4}|\t)[^\n]*$", re.MULTILINE)
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad]")
_NEGATES = re.compile(r"^\W*(?:no+|nope|nah)\b")
ANSWERS_A_QUESTION = 0.45
"""What a leading "no" loses when the assistant had asked something."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the words of a turn say."""

    score: float
    words: tuple[str, ...]
    """The words that said so, in order."""


def folded(text: str) -> str:
    """The text in one case, one kind of quote and single spaces, with nothing invisible in it."""
    words = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text[:TAKEN_CHARS])).lower()
    for quote in "\u2018\u2019\u02bc\u0060\u00b4":
        words = words.replace(quote, "'")
    return " ".join(words.split())


def plain(text: str) -> str:
    """The folded text without code and quotations: what the user says himself."""
    return folded(_CODE.sub(" ", text[:TAKEN_CHARS]))


def against(text: str, *, after: str) -> Reading:
    """How much a user's turn says that the answer before it, `after`, was wrong."""
    words = plain(text)[:READ_CHARS]
    found = _matches("against", words)
    score = sum(weight for _, weight in found) - sum(weight for _, weight in _matches("harmless", words))
    if after.rstrip().endswith("?") and _NEGATES.match(words):
        score -= ANSWERS_A_QUESTION
    return Reading(score=_clip(score), words=tuple(word for word, _ in found))


def approves(text: str) -> Reading:
    """How much a user's turn says that the answer before it was right."""
    words = plain(text)[:READ_CHARS]
    found = _matches("for", words)
    score = sum(weight for _, weight in found) - (0.5 if _NOT_FOR.search(words) else 0.0)
    return Reading(score=_clip(score), words=tuple(word for word, _ in found))


def mentioned(cues: Sequence[str], text: str) -> tuple[str, ...]:
    """The cues that stand in the text as whole words, longest first; one inside another counts once."""
    words, found = plain(text)[: 2 * READ_CHARS], list[str]()
    for cue in sorted(set(cues), key=lambda cue: (-len(cue), cue)):
        if re.search(rf"(?<!\w){re.escape(plain(cue))}(?!\w)", words) and not any(
            cue in other for other in found
        ):
            found.append(cue)
    return tuple(found)


def _matches(name: str, words: str) -> list[tuple[str, float]]:
    found = [(match, weight) for pattern, weight in _COMPILED[name] if (match := pattern.search(words))]
    return [
        (match.group().strip(), weight) for match, weight in sorted(found, key=lambda pair: pair[0].start())
    ]


def _clip(score: float) -> float:
    return round(min(1.0, max(0.0, score)), 4)
