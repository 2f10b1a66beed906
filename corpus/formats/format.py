"""What a reader of a log format is: its name, and pure functions from JSON values to conversations.

Invariant: a reader never opens a file. `read` takes one decoded record; `join` takes all records of a file,
for a format whose records depend on each other.
`samples/NAME.jsonl` is a file of the format that we wrote.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from corpus.conversation import Conversation
from corpus.lines import BadLine

Part = Conversation | BadLine
"""What is read from a record: a conversation, or a fault that is reported."""

Reading = Part | tuple[Part, ...] | None
"""The parts that one record gives; None for a record that is no part of a conversation."""

Located = tuple[int, Any]
"""The number of a line, from 1, and its decoded value."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """One log format."""

    name: str
    """The value of `--format`."""
    title: str
    """What writes such logs, for the documentation."""
    seen: str
    """Which versions or sources the reader was written from."""
    link: str
    """The public description, or the program's home."""
    recognises: Callable[[Any], bool]
    """Whether a decoded record looks like this format."""
    read: Callable[[Any, int], Reading]
    """Reads one record; the second argument is the number of its line."""
    join: Callable[[Iterable[Located]], Iterator[Part]] | None = None
    """Reads all records of a file; None if each record is read by itself."""


def parts_of(reading: Reading) -> tuple[Part, ...]:
    """Return what was read from a record as a tuple of any length."""
    if reading is None:
        return ()
    return reading if isinstance(reading, tuple) else (reading,)
