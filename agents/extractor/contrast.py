"""Whether a turn states another name or number than the answer: a correction without a word of complaint.

"created_on, not created_at", "it's Meyer with e-y", "wait, 7 times 8 is 56": they are recognised by what the
answer says, not by the words of a language. Invariant: pure.
"""

import re
from functools import cache

from agents.extractor.tables import anywhere, form, tables

MOST_WORDS = 14
"""Number of words up to which a turn can be a plain statement of the right name or number."""
SHORTEST_NAME = 5
"""Number of letters from which a name with one other letter is another spelling of it."""

_TOKEN = re.compile(r"\w[\w.,:/-]*\w|\w")
_NAME = re.compile(r"\b[A-Z]\w{3,}")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_ARTICLE = r"(?:(?:the|an?|in|on|at|den|die|das|der|la|le|les|el|los|il|de|het|o|um|uma|un|una|une) )?"


@cache
def _negated_word(code: str) -> re.Pattern[str]:
    """Return the pattern of a word that should not be, in a language; the matched group is the word."""
    source = tables()[code].source
    if "negated" in source:
        return re.compile(rf"(?<!\w)(?:{source['negated']}) {_ARTICLE}([\w.:/-]+)")
    return re.compile(str(source.get("not_this", "(?!)()")))


@cache
def _statement() -> re.Pattern[str]:
    """Return the pattern of the words that state a name or a number, in any language."""
    return re.compile(rf"=|(?<![^\W\u3041-\u9fff])(?:{anywhere('states')})(?![a-z])")


NAMED = 0.5
"""Score that a complaint gains if the turn says that a word of the answer should not be, or spells a name."""
COUNTED = 0.35
"""Score that a complaint gains if the turn states another number than the answer."""


def contradicts(words: str, code: str, *, request: str, answer: str) -> tuple[str, float]:
    """Return the part of a turn that contradicts the answer, and how much it adds to a complaint's score.

    The part is "" if there is none.

    Args:
        words: The user's own words, in the form of `tables.form`.
        code: The language of the words.
        request: The request, in the same form.
        answer: The answer as it was.
    """
    if not answer or len(words) > 200 or len(words.split()) > MOST_WORDS:
        return "", 0.0
    said = form(answer)
    if named := _negated(words, code, said, request) or _spelt(words, answer, request):
        return named, NAMED
    counted = _number(words, said, request)
    return counted, COUNTED if counted else 0.0


def _negated(words: str, code: str, said: str, request: str) -> str:
    """Return a word of the answer, and not of the request, that the turn says it should not be."""
    tokens = set(_TOKEN.findall(said))
    for match in _negated_word(code).finditer(words):
        word = str(next(group for group in match.groups() if group)).rstrip(".,:")
        known = word in tokens if word.isascii() else word in said
        if known and len(word) > 1 and word not in request:
            return str(match.group())
    return ""


def _spelt(words: str, answer: str, request: str) -> str:
    """Return a name in the turn that the answer spells with one other letter."""
    for name in {form(name) for name in _NAME.findall(answer)}:
        if len(name) < SHORTEST_NAME or name in words or name in request:
            continue
        tokens: list[str] = _TOKEN.findall(words)
        for token in tokens:
            if len(token) == len(name) and sum(a != b for a, b in zip(token, name, strict=True)) == 1:
                return token
    return ""


def _number(words: str, said: str, request: str) -> str:
    """Return a number that the turn states where the answer has another one.

    A question states nothing. Numbers of the request are no statement either.
    """
    if words.endswith(("?", "\uff1f")):
        return ""
    known, before = set(_NUMBER.findall(said)), _NUMBER.findall(request)
    if not known or len(said.split()) > 3 * MOST_WORDS or not _statement().search(words):
        return ""
    fresh: list[str] = [n for n in _NUMBER.findall(words) if n not in known and n not in before]
    return fresh[0] if fresh else ""
