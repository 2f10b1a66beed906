"""Reader of Letta's agent files (`.af`), new and old.

Invariant: a message that the agent sent with `send_message` is its answer; the text beside it is a thought.
Heartbeats, logins and alerts that the server wrote in the user's name are nobody's words.
"""

from typing import Any

from corpus.aliases import Json
from corpus.formats.exchange import conversation_of
from corpus.formats.format import Format, Part, Reading
from corpus.formats.parts import at, parsed, text_at
from corpus.lines import BadLine

NAME = "letta"


def recognises(value: Any) -> bool:
    """Return whether a value is an agent file."""
    if not isinstance(value, dict):
        return False
    agents = value.get("agents")
    several = isinstance(agents, list) and bool(agents) and isinstance(at(value, "agents.0.messages"), list)
    return several or ("agent_type" in value and isinstance(value.get("messages"), list))


def read(value: Any, line: int) -> Reading:
    """Return the conversation of each agent in the file.

    Args:
        value: The content of the file.
        line: The number of its line, from 1.
    """
    if not recognises(value):
        return BadLine(line=line, reason='no "agents" with messages')
    agents = value.get("agents") if isinstance(value.get("agents"), list) else [value]
    found: list[Part] = []
    for agent in agents or []:
        messages = at(agent, "messages")
        if isinstance(messages, list) and messages:
            shown = [said for message in messages if (said := _message(message)) is not None]
            found.append(conversation_of(shown, line, NAME))
    return tuple(found)


def _message(message: Any) -> Any:
    """Return a message with what was sent as its content; None for the receipt of a message that was sent."""
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    if (
        isinstance(message, dict)
        and message.get("role") == "tool"
        and text_at(message, "name") == "send_message"
    ):
        return None
    if not isinstance(calls, list):
        return message
    sent = [call for call in calls if at(call, "function.name") == "send_message"]
    if not sent:
        return message
    arguments: list[Json] = [parsed(at(call, "function.arguments")) for call in sent]
    texts = [text for held in arguments if (text := text_at(held, "message"))]
    return {**message, "content": texts, "tool_calls": [call for call in calls if call not in sent]}


FORMAT = Format(
    name=NAME,
    title="Letta: agent files (.af)",
    seen="files with `agents`, and the older form with the messages at the top",
    link="https://docs.letta.com/guides/agents/agent-file",
    recognises=recognises,
    read=read,
)
