"""Reader of LM Studio's conversation files: each message has versions, of which one is selected.

Invariant: the version that is selected is the turn. The system prompt is a setting of the chat, which applies
to later answers too, and gives no turn. Steps that are tool status or thinking give nothing.
"""

from typing import Any

from corpus.aliases import Json
from corpus.formats.exchange import conversation_of
from corpus.formats.format import Format, Reading
from corpus.formats.parts import at
from corpus.lines import BadLine

NAME = "lm-studio"


def recognises(value: Any) -> bool:
    """Return whether a value is a conversation file."""
    return isinstance(value, dict) and isinstance(at(value, "messages.0.versions"), list)


def read(value: Any, line: int) -> Reading:
    """Return the conversation, or a BadLine with the reason.

    Args:
        value: The content of the file.
        line: The number of its line, from 1.
    """
    if not recognises(value):
        return BadLine(line=line, reason="no messages with versions")
    return conversation_of([_selected(message) for message in value["messages"]], line, NAME)


def _selected(message: Any) -> Any:
    """Return the selected version of a message as a chat message."""
    version = at(message, f"versions.{at(message, 'currentlySelected') or 0}")
    if not isinstance(version, dict):
        return message
    steps = version.get("steps")
    if not isinstance(steps, list):
        return version
    blocks = [step for step in steps if isinstance(step, dict) and step.get("type") == "contentBlock"]
    spoken: list[Json] = [step for step in blocks if at(step, "style.type") != "thinking"]
    return {"role": version.get("role"), "content": [step.get("content") for step in spoken]}


FORMAT = Format(
    name=NAME,
    title="LM Studio: the files in ~/.lmstudio/conversations",
    seen="0.3",
    link="https://lmstudio.ai/docs",
    recognises=recognises,
    read=read,
)
