"""Reader of ChatGPT's export: `conversations.json`, a tree of messages for each conversation.

Invariant: the turns are the branch that `current_node` names. What the model thought, memory notices and
hidden system messages give nothing.
"""

from typing import Any

from corpus.aliases import Json
from corpus.conversation import Conversation
from corpus.formats.exchange import conversation_of
from corpus.formats.format import Format, Reading
from corpus.formats.parts import at, text_at
from corpus.formats.tree import last_leaf, path_to
from corpus.lines import BadLine

NAME = "chatgpt"

_SILENT = (
    "thoughts",
    "reasoning_recap",
    "user_editable_context",
    "model_editable_context",
    "app_pairing_content",
)


def recognises(value: Any) -> bool:
    """Return whether a value is a conversation of the export."""
    return isinstance(value, dict) and isinstance(value.get("mapping"), dict)


def read(value: Any, line: int) -> Reading:
    """Return the live branch of a conversation, or a BadLine with the reason.

    Args:
        value: The conversation.
        line: The number of its place in the array, from 1.
    """
    if not recognises(value):
        return BadLine(line=line, reason='no "mapping" of messages')
    nodes: Json = value["mapping"]
    leaf = text_at(value, "current_node") or last_leaf(nodes, "parent")
    messages = [
        message for node in path_to(leaf, nodes, "parent") if (message := _message(node.get("message")))
    ]
    found = conversation_of(messages, line, NAME)
    if isinstance(found, Conversation) or messages:
        return found
    return None  # a conversation that was opened and left


def _message(message: Any) -> Json | None:
    """Return a message of the export as a chat message; None for one that nobody saw."""
    kind = at(message, "content.content_type")
    if (
        not isinstance(message, dict)
        or kind in _SILENT
        or at(message, "metadata.is_visually_hidden_from_conversation")
    ):
        return None
    parts = at(message, "content.parts")
    text = parts if isinstance(parts, list) else text_at(message, "content.text")
    shown = (
        [part if isinstance(part, str) else _shown(part) for part in text] if isinstance(text, list) else text
    )
    role = text_at(message, "author.role")
    return {"role": role, "content": shown, "create_time": message.get("create_time")} if role else None


def _shown(part: Any) -> str:
    """Return what stands for a part without words: the words of a voice message, or its type in brackets."""
    text = text_at(part, "text")
    return text or f"[{text_at(part, 'content_type') or 'part'}]"


FORMAT = Format(
    name=NAME,
    title="ChatGPT: the export (conversations.json)",
    seen="exports of 2023 to 2026",
    link="https://help.openai.com/en/articles/7260999-how-do-i-export-my-chatgpt-history-and-data",
    recognises=recognises,
    read=read,
)
