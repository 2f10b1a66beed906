# ruff: noqa: E501  (tables of words, a language or a word in a row)
"""Checks of an answer's length."""

import re

_WORD = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]|[^\W_\u3040-\u30ff\u4e00-\u9fff]+(?:['\u2019-]\w+)*")
_ABBREVIATION = re.compile(
    r"\b(?:e\.g|i\.e|etc|vs|approx|dr|mr|mrs|ms|prof|st|no|z\. ?b|d\. ?h|u\. ?a|bzw|ca|nr|p\. ?ex|m|mme|[a-z])\.",
    re.IGNORECASE,
)
_END = re.compile(
    r"[.!?\u2026]+[\"'\u201d\u2019)\]]*(?=\s|$)|[\u3002\uff01\uff1f]+|\n\s*\n|\n(?=\s*(?:[-*\u2022]|\d+[.)])\s)"
)


def words(text: str) -> list[str]:
    """Return the words of a text; each character of Chinese and Japanese counts as a word."""
    return _WORD.findall(text)


def sentences(text: str) -> list[str]:
    """Return the sentences of a text; a point of a list and a paragraph end a sentence too."""
    plain = _ABBREVIATION.sub(lambda match: match.group().replace(".", ""), text)
    return [part.strip() for part in _END.split(plain) if words(part)]


def max_words(answer: str, *, most: int) -> str:
    """Keep it to this many words: "too long", "max 30 words"."""
    count = len(words(answer))
    return f"has {count} words, more than {most}" if count > most else ""


def min_words(answer: str, *, least: int) -> str:
    """Say more than a line or two: "too short", "I wanted some detail"."""
    count = len(words(answer))
    return f"has {count} words, fewer than {least}" if count < least else ""


def max_sentences(answer: str, *, most: int) -> str:
    """Keep it to this many sentences: "one sentence, please"."""
    count = len(sentences(answer))
    return f"has {count} sentences, more than {most}" if count > most else ""
