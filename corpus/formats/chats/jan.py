"""Reader of Jan, and of threads of the Assistants API: one message on each line, with the id of its thread.

Invariant: the messages of a thread are in the order of their times, because lists of the interface have the
newest first.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from corpus.formats.format import Format, Located, Part, Reading
from corpus.formats.parts import text_at, time_of
from corpus.formats.sessions import Message, gathered, numbered, session

NAME = "jan"

_NEVER = datetime.max.replace(tzinfo=UTC)


def recognises(value: Any) -> bool:
    """Return whether a value is a message of a thread."""
    return isinstance(value, dict) and "thread_id" in value and "role" in value and "content" in value


def read(value: Any, line: int) -> Reading:
    """Return a single message as a conversation; see `join` for a whole file."""
    return tuple(join([(line, value)]))


def join(records: Iterable[Located]) -> Iterator[Part]:
    """Yield the conversation of each thread."""
    messages = [
        (text_at(value, "thread_id"), Message(line=line, value=value, id=text_at(value, "id")))
        for line, value in numbered(records)
        if recognises(value)
    ]
    for key, its in gathered(messages).items():
        times = [time_of(message.value) for message in its]
        places = sorted(range(len(its)), key=lambda place: (times[place] or _NEVER, place))
        yield from session([its[place] for place in places] if all(times) else its, NAME, key=key)


FORMAT = Format(
    name=NAME,
    title="Jan: messages.jsonl in its threads; threads of the Assistants API",
    seen="0.5 to 0.7",
    link="https://jan.ai/docs",
    recognises=recognises,
    read=read,
    join=join,
)
