"""Reader of Cursor: the table of its state.vscdb, and the transcripts of its agent.

Invariant: a conversation has the bubbles that its composer lists, in that order; what Cursor added to a
person's words is left out. A transcript has one message on each line and no ids, so a file is one
conversation.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from corpus.aliases import Json
from corpus.formats.format import Format, Located, Part, Reading
from corpus.formats.parts import at, parsed, text_at
from corpus.formats.sessions import Message, numbered, session

NAME = "cursor"

_KEYS = ("composerData:", "bubbleId:")
_ROLES = {"1": "user", "2": "assistant"}


def recognises(value: Any) -> bool:
    """Return whether a value is a row of the table, or a line of a transcript."""
    if not isinstance(value, dict):
        return False
    row = isinstance(value.get("key"), str) and value["key"].startswith(_KEYS) and "value" in value
    return row or _said(value) is not None


def _said(value: Json) -> Json | None:
    """Return the message on a line of a transcript; None for another record."""
    message = value.get("message")
    plain = set(value) <= {"role", "message", "timestamp", "type"} and value.get("role") in (
        "user",
        "assistant",
    )
    return {**message, **value} if plain and isinstance(message, dict) and "content" in message else None


def read(value: Any, line: int) -> Reading:
    """Return the conversation in a single record; see `join` for a whole file."""
    return tuple(join([(line, value)]))


def join(records: Iterable[Located]) -> Iterator[Part]:
    """Yield the conversation of each composer, or of the transcript."""
    composers: list[tuple[int, Json]] = []
    bubbles: dict[str, tuple[int, Json]] = {}
    transcript: list[Message] = []
    for line, value in numbered(records):
        held = parsed(value.get("value"))
        if isinstance(held, dict) and str(value.get("key")).startswith("composerData:"):
            composers.append((line, held))
        elif isinstance(held, dict):
            bubbles[str(value.get("key")).removeprefix("bubbleId:")] = (line, held)
        elif said := _said(value):
            transcript.append(Message(line=line, value={**said, "message": None}))
    yield from session(transcript, NAME)
    for line, composer in composers:
        key = text_at(composer, "composerId")
        yield from session(_messages(composer, key, line, bubbles), NAME, key=key)


def _messages(composer: Json, key: str, line: int, bubbles: dict[str, tuple[int, Json]]) -> Iterator[Message]:
    """Yield the messages of a composer: those in it (older versions), or the bubbles that it lists."""
    older = composer.get("conversation")
    for head in older if isinstance(older, list) and older else _heads(composer):
        id = text_at(head, "bubbleId")
        where, bubble = bubbles.get(f"{key}:{id}", (line, head))
        text = text_at(bubble, "text")
        if text.strip() or "type" not in bubble:
            told = {"role": _ROLES.get(text_at(bubble, "type"), bubble.get("type")), "content": text}
            yield Message(line=where, value={**told, "createdAt": bubble.get("createdAt")}, id=id)


def _heads(composer: Json) -> Iterator[Json]:
    heads = at(composer, "fullConversationHeadersOnly")
    yield from (head for head in heads if isinstance(head, dict)) if isinstance(heads, list) else ()


FORMAT = Format(
    name=NAME,
    title="Cursor: state.vscdb, and the transcripts of its agent in ~/.cursor/projects",
    seen="composers with their bubbles in them and beside them; transcripts of 2026",
    link="https://cursor.com/docs",
    recognises=recognises,
    read=read,
    join=join,
)
