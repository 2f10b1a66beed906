"""Reader of LibreChat's export: a tree of messages, or a flat list.

Invariant: of a tree the turns are the branch of the newest message. A thumb is the rating of its answer.
"""

from collections.abc import Iterator
from typing import Any

from corpus.aliases import Json
from corpus.formats.exchange import conversation_of
from corpus.formats.format import Format, Reading
from corpus.formats.parts import text_at
from corpus.formats.tree import last_leaf, path_to
from corpus.lines import BadLine

NAME = "librechat"

_PARENT = "parentMessageId"


def recognises(value: Any) -> bool:
    """Return whether a value is an exported conversation."""
    if not isinstance(value, dict) or "conversationId" not in value:
        return False
    return any(isinstance(value.get(name), list) for name in ("messagesTree", "messages"))


def read(value: Any, line: int) -> Reading:
    """Return the live branch of a conversation, or a BadLine with the reason.

    Args:
        value: The conversation.
        line: The number of its line, from 1.
    """
    if not recognises(value):
        return BadLine(line=line, reason='no "messagesTree" and no "messages"')
    messages = list(_flat(value.get("messagesTree") or value.get("messages")))
    nodes = {text_at(message, "messageId"): message for message in messages}
    leaf = last_leaf(nodes, _PARENT)
    path = [message for message in path_to(leaf, nodes, _PARENT) or messages if not message.get("error")]
    return conversation_of(path, line, NAME, source=text_at(value, "user"))


def _flat(messages: Any) -> Iterator[Json]:
    """Yield all messages of a tree, each before its children."""
    for message in messages if isinstance(messages, list) else []:
        if isinstance(message, dict):
            yield message
            yield from _flat(message.get("children"))


FORMAT = Format(
    name=NAME,
    title="LibreChat: exported conversations",
    seen="JSON exports of 0.7 and 0.8, recursive or not",
    link="https://www.librechat.ai/docs",
    recognises=recognises,
    read=read,
)
