"""Reader of SillyTavern's chat files: a header, then one message on each line.

Invariant: a file is one conversation. Messages that are hidden from the model give no turns. Of several
answers, the one that is shown is the turn.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from corpus.aliases import Json
from corpus.formats.format import Format, Located, Part, Reading
from corpus.formats.parts import as_time, text_at
from corpus.formats.sessions import Message, numbered, session

NAME = "sillytavern"

_NO_NAMES = ("", "unused", "You", "User")
_PARTS = re.compile(r"(\d{4})-(\d+)-(\d+) ?@(\d+)h ?(\d+)m ?(\d+)s")
_FORMS = ("%B %d, %Y %I:%M%p",)


def recognises(value: Any) -> bool:
    """Return whether a value is the header or a message of a chat file."""
    if not isinstance(value, dict):
        return False
    return ("mes" in value and "is_user" in value) or ("character_name" in value and "user_name" in value)


def read(value: Any, line: int) -> Reading:
    """Return a single message as a conversation; see `join` for a whole file."""
    return tuple(join([(line, value)]))


def join(records: Iterable[Located]) -> Iterator[Part]:
    """Yield the conversation of the file."""
    source = ""
    messages: list[Message] = []
    for line, value in numbered(records):
        if "mes" in value:
            if not value.get("is_system"):
                messages.append(Message(line=line, value=_message(value)))
        elif text_at(value, "user_name") not in _NO_NAMES:
            source = text_at(value, "user_name")
    yield from session(messages, NAME, source=source)


def _message(value: Json) -> Json:
    moment = _time(value.get("send_date"))
    role = "user" if value.get("is_user") else "assistant"
    return {"role": role, "content": value.get("mes"), "time": moment.isoformat() if moment else None}


def _time(value: Any) -> datetime | None:
    """Return the time of a message, in the forms of all versions; None for any other value."""
    if isinstance(value, str):
        if found := _PARTS.match(value):
            try:
                return datetime(*map(int, found.groups()), tzinfo=UTC)  # type: ignore[misc, arg-type]
            except ValueError:
                return None
        for form in _FORMS:
            try:
                return datetime.strptime(value, form).replace(tzinfo=UTC)
            except ValueError:
                continue
    return as_time(value)


FORMAT = Format(
    name=NAME,
    title="SillyTavern: the chat files (.jsonl)",
    seen="1.10 to 1.13",
    link="https://docs.sillytavern.app/usage/core-concepts/chatfilemanagement/",
    recognises=recognises,
    read=read,
    join=join,
)
