"""Detection of a log's format from its first whole lines.

Invariant: the result depends on these lines alone, never on the file's name. This module knows every reader,
but nothing about files.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice
from types import ModuleType
from typing import Any

from corpus.conversation import Conversation
from corpus.errors import UsageError
from corpus.formats import claude_code, openai, sharegpt, trl
from corpus.lines import BadLine, RawLine, decode

Reader = Callable[[Any, int], Conversation | BadLine | None]

SAMPLE = 50
"""Number of whole lines that are read to detect a format."""

_MODULES: tuple[ModuleType, ...] = (trl, openai, sharegpt, claude_code)  # the first wins a tie

NAMES = tuple(sorted(module.NAME for module in _MODULES))
"""The values of `--format`."""


def detect(lines: Iterable[RawLine | BadLine]) -> str | BadLine | None:
    """Return the name of the format that most of the first `SAMPLE` lines have.

    Returns:
        A BadLine with the first fault if no line has a known format; None if there are no lines.
    """
    votes: Counter[str] = Counter()
    first: BadLine | None = None
    whole = (line for line in lines if isinstance(line, BadLine) or not line.blank)
    for line in islice(whole, SAMPLE):
        value = line if isinstance(line, BadLine) else decode(line)
        name = None if isinstance(value, BadLine) else recognise(value)
        if name is not None:
            votes[name] += 1
        elif first is None:
            number = line.line if isinstance(line, BadLine) else line.number
            unknown = BadLine(line=number, reason="no record of a conversation")
            first = value if isinstance(value, BadLine) else unknown
    return votes.most_common(1)[0][0] if votes else first


def recognise(value: Any) -> str | None:
    """Return the name of the first format that a decoded line looks like; None if there is none."""
    return next((str(module.NAME) for module in _MODULES if module.recognises(value)), None)


def reader(name: str) -> Reader:
    """Return the function that reads the lines of this format; raise UsageError for an unknown name."""
    for module in _MODULES:
        if name == module.NAME:
            read: Reader = module.read
            return read
    raise UsageError(f"there is no log format {name!r}: use one of {', '.join(NAMES)}")
