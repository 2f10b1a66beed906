"""Reader of claude.ai's export: `conversations.json`, with `chat_messages` for each conversation.

Invariant: the turns are the branch of the last message, if the messages name their parents; else all of them.
"""

from typing import Any

from corpus.conversation import Conversation
from corpus.formats.exchange import conversation_of
from corpus.formats.format import Format, Reading
from corpus.formats.parts import text_at
from corpus.formats.tree import last_leaf, path_to
from corpus.lines import BadLine

NAME = "claude-ai"

_PARENT = "parent_message_uuid"


def recognises(value: Any) -> bool:
    """Return whether a value is a conversation of the export."""
    return isinstance(value, dict) and isinstance(value.get("chat_messages"), list)


def read(value: Any, line: int) -> Reading:
    """Return the conversation, or a BadLine with the reason.

    Args:
        value: The conversation.
        line: The number of its place in the array, from 1.
    """
    if not recognises(value):
        return BadLine(line=line, reason='no list "chat_messages"')
    messages = value["chat_messages"]
    nodes = {text_at(message, "uuid"): message for message in messages if text_at(message, "uuid")}
    if any(text_at(message, _PARENT) for message in messages) and len(nodes) == len(messages):
        leaf = text_at(value, "current_leaf_message_uuid") or last_leaf(nodes, _PARENT)
        messages = path_to(leaf, nodes, _PARENT) or messages
    found = conversation_of(messages, line, NAME, source=text_at(value, "account.uuid"))
    return found if isinstance(found, Conversation) or messages else None


FORMAT = Format(
    name=NAME,
    title="claude.ai: the export (conversations.json)",
    seen="exports of 2024 to 2026",
    link="https://support.anthropic.com/en/articles/9450526-how-can-i-export-my-claude-data",
    recognises=recognises,
    read=read,
)
