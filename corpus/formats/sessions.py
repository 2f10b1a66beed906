"""Sessions that a log writes message by message: its records are gathered by session and become turns.

Invariant: a message that cannot be read ends its session there, together with the question that it answers,
so that no question is left without its answer and no answer without its history. Pure.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from corpus.aliases import Json
from corpus.conversation import Conversation, Turn
from corpus.formats.format import Located, Part
from corpus.formats.messages import together, turns_of
from corpus.lines import BadLine


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message of a session."""

    line: int
    """Number of the line that holds it."""
    value: Json
    """The message, with a role and a content in the shape of any known log."""
    id: str = ""
    """The log's own id of the message; "" without one."""


Record = TypeVar("Record")


def gathered(records: Iterable[tuple[str, Record]]) -> dict[str, list[Record]]:
    """Return the records by the id of their session, the sessions in the order in which they begin."""
    sessions: dict[str, list[Record]] = {}
    for key, record in records:
        sessions.setdefault(key, []).append(record)
    return sessions


def session(messages: Iterable[Message], name: str, *, key: str = "", source: str = "") -> Iterator[Part]:
    """Yield the fault that ends a session, if there is one, then its conversation.

    Answers that follow each other without anything between them are pieces of one answer.

    Args:
        messages: The messages, in order.
        name: Name of the format.
        key: The log's id of the session; "" if its messages have no ids.
        source: The user whom the log names; "" without one.
    """
    turns: list[Turn] = []
    for message in messages:
        own = turns_of([message.value], message.line)
        if isinstance(own, BadLine):
            yield replace(own, reason=own.reason.removeprefix("message 1: "))
            while turns and turns[-1].role == "user":
                turns.pop()
            break
        for number, turn in enumerate(own):
            keyed = replace(turn, key=f"{message.id}:{number}" if number else message.id) if key else turn
            if turns and turns[-1].role == keyed.role == "assistant":
                turns[-1] = together(turns[-1], keyed)
            else:
                turns.append(keyed)
    if turns:
        yield Conversation(source=source, format=name, turns=tuple(turns), key=key)


def numbered(records: Iterable[Located]) -> Iterator[tuple[int, Json]]:
    """Yield the records that are objects, with their lines."""
    for line, value in records:
        if isinstance(value, dict):
            yield line, value
