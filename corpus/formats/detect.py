"""Detection of a log's format from its first records, and the readers of all formats.

Invariant: the result depends on these records alone, never on the file's name. This module knows every
reader, but nothing about files.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from corpus.errors import UsageError
from corpus.formats.format import Format, Part, parts_of
from corpus.formats.parts import keys_of
from corpus.formats.registry import FORMATS
from corpus.lines import BadLine, Item, RawLine, decode

Record = RawLine | Item | BadLine
"""A record of a file, before it is decoded if it is a line."""

Reader = Callable[[Any, int], tuple[Part, ...]]

SAMPLE = 50
"""Number of records that are read to detect a format."""

NAMES = tuple(sorted(format.name for format in FORMATS))
"""The values of `--format`."""

WRAPPERS = (
    "conversations", "data", "items", "chats", "sessions", "threads", "messages", "rows", "row", "records",
    "results", "examples", "logs", "traces", "dialogs", "dialogues", "entries", "value", "content", "train",
    "spans", "runs", "generations",
)  # fmt: skip
"""The keys under which exports wrap the list of their conversations in an object."""

_BY_NAME = {format.name: format for format in FORMATS}


def detect(records: Iterable[Record]) -> str | BadLine | None:
    """Return the name of the format that most of the first `SAMPLE` records have.

    Returns:
        A BadLine with the first fault if no record has a known format; None if there are no records.
    """
    votes: Counter[str] = Counter()
    first: BadLine | None = None
    whole = (record for record in records if not isinstance(record, RawLine) or not record.blank)
    for record in islice(whole, SAMPLE):
        value = value_of(record)
        name = None if isinstance(value, BadLine) else recognise(value)
        if name is not None:
            votes[name] += 1
        elif first is None:
            number = record.line if isinstance(record, BadLine) else record.number
            unknown = BadLine(line=number, reason=f"no record of a conversation; {keys_of(value)}")
            first = value if isinstance(value, BadLine) else unknown
    return votes.most_common(1)[0][0] if votes else first


def value_of(record: Record, encoding: str = "utf-8") -> Any:
    """Return the value of a record, or a BadLine with the reason why it cannot be read."""
    if isinstance(record, BadLine):
        return record
    return record.value if isinstance(record, Item) else decode(record, encoding=encoding)


def recognise(value: Any) -> str | None:
    """Return the name of the first format that a decoded record looks like; None if there is none."""
    return next((format.name for format in FORMATS if format.recognises(value)), None)


def unwrapped(value: Any) -> Iterator[Any]:
    """Yield the records in an object that only wraps a list of them; any other value as it is."""
    if isinstance(value, dict) and recognise(value) is None:
        for key in WRAPPERS:
            inner = value.get(key)
            if isinstance(inner, dict) and key == "row":
                yield from unwrapped(inner)
                return
            if isinstance(inner, list) and inner and isinstance(inner[0], dict):
                for item in inner:
                    yield from unwrapped(item)
                return
    yield value


def named(name: str) -> Format:
    """Return the format of this name; raise UsageError for an unknown name."""
    if name not in _BY_NAME:
        raise UsageError(f"there is no log format {name!r}: use one of {', '.join(NAMES)}")
    return _BY_NAME[name]


def reader(name: str, *, sure: bool = True) -> Reader:
    """Return the function that reads the records of this format; raise UsageError for an unknown name.

    Args:
        name: Name of the format.
        sure: Whether every record has this format. If not, a record of another format is read as such.
    """
    own = named(name)

    def read(value: Any, line: int) -> tuple[Part, ...]:
        format = own
        if not sure and not own.recognises(value):
            format = next((other for other in FORMATS if other.recognises(value)), own)
        return own_parts(format, value, line)

    return read


def own_parts(format: Format, value: Any, line: int) -> tuple[Part, ...]:
    """Return what a format's reader gives for a record."""
    try:
        return parts_of(format.read(value, line))
    except RecursionError:
        return (BadLine(line=line, reason="nested too deep"),)
