"""Which format a file is in, from its first whole lines.

Invariant: the answer depends on those lines alone, never on the file's name. Knows every reader and no file.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from corpus.conversation import Conversation
from corpus.errors import UsageError
from corpus.formats import claude_code, openai, sharegpt, trl
from corpus.lines import BadLine

Reader = Callable[[Any, int], Conversation | BadLine | None]

SAMPLE = 50
"""Whole lines that are looked at."""

_MODULES: tuple[ModuleType, ...] = (trl, openai, sharegpt, claude_code)  # the first wins a tie

NAMES = tuple(sorted(module.NAME for module in _MODULES))
"""What `--format` takes."""


def detect(values: Iterable[Any]) -> str | None:
    """The format that recognises most of these decoded lines; None where none recognises any."""
    votes: Counter[str] = Counter()
    for value in values:
        votes.update(module.NAME for module in _MODULES if module.recognises(value))
    return max((module.NAME for module in _MODULES), key=lambda name: votes[name]) if votes else None


def reader(name: str) -> Reader:
    """The reader of a format."""
    for module in _MODULES:
        if name == module.NAME:
            read: Reader = module.read
            return read
    raise UsageError(f"there is no log format {name!r}: use one of {', '.join(NAMES)}")
