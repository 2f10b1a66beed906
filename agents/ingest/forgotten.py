"""Which lines of a log hold what is to be forgotten: those that an ingest would pass over.

Invariant: reads only, and by the same readers as an ingest, so that what is named here is what would come back.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from agents.ingest.files import Opened, open_log
from corpus.conversation import Conversation
from corpus.errors import LogRefused
from corpus.formats.detect import reader
from corpus.lines import MAX_ARRAY, BadLine, RawLine, array_items, decode, is_array, whole_lines
from store.conversations.conversations import marks


def lines_with(path: Path, format: str, wanted: Collection[str]) -> list[int]:
    """The lines of a log with one of these marks; LogRefused for a file that cannot be read."""
    read, wanted, found = reader(format), frozenset(wanted), list[int]()
    try:
        opened = open_log(path)
        with opened.stream:
            for item in _items(opened):
                if isinstance(item, BadLine) or item.blank:
                    continue
                value = decode(item)
                said = value if isinstance(value, BadLine) else read(value, item.number)
                if isinstance(said, Conversation) and said.turns and not wanted.isdisjoint(marks(said)):
                    found.append(item.number)
    except OSError as error:
        raise LogRefused(f"cannot be read: {error.strerror}") from None
    return found


def _items(opened: Opened) -> Iterator[RawLine | BadLine]:
    """The lines of a file, or the items of the array that it is."""
    if not is_array(opened.head):
        return whole_lines(opened.stream, until=opened.size)
    if opened.size > MAX_ARRAY:
        raise LogRefused("a JSON array that is too large to be read")
    return array_items(opened.stream.read(opened.size))
