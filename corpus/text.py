"""Texts as sets of words, and as what may be printed.

The dreamer and the extractor compare texts by their words; whatever prints a text from outside makes its
controls visible first. Invariant: pure functions.
"""

import json
import re
from collections.abc import Set
from typing import Any


def word_set(text: str) -> frozenset[str]:
    """Return the set of a text's words, in lower case."""
    return frozenset(re.findall(r"\w+", text.lower()))


def jaccard(a: Set[str], b: Set[str]) -> float:
    """Return the Jaccard similarity of two word sets, 0 to 1; it is 1 for two empty sets."""
    union = len(a | b)
    return len(a & b) / union if union else 1.0


def visible(text: str, *, keep: str = "") -> str:
    """Return a text in which nothing acts on a terminal: each control becomes an escape, as Python writes it.

    Controls are also those of C1, marks that change the direction of writing, marks without a width,
    separators of lines and paragraphs, and halves of surrogate pairs.

    Args:
        text: A text from outside.
        keep: Characters that stay as they are.
    """
    if text.isprintable():  # neither controls nor marks are printable
        return text
    return "".join(letter if letter.isprintable() or letter in keep else _escape(letter) for letter in text)


def _escape(letter: str) -> str:
    """Return the escape of a character, as Python and JSON write it."""
    code = ord(letter)
    if letter in "\n\t\r":
        return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}[letter]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def json_line(value: Any) -> str:
    """Return a value as JSON on one line, readable, and with escapes for whatever acts on a terminal."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in text)
