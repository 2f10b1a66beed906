"""Reader of Gemini CLI's session files: one object with the messages of a session.

Invariant: notices of the client give nothing; thoughts are no part of an answer.
"""

from typing import Any

from corpus.formats.exchange import conversation_of
from corpus.formats.format import Format, Reading
from corpus.lines import BadLine

NAME = "gemini-cli"

_NOTICES = ("info", "error", "warning", "about", "help", "stats", "quit", "compression")


def recognises(value: Any) -> bool:
    """Return whether a value is a session file."""
    return isinstance(value, dict) and "projectHash" in value and isinstance(value.get("messages"), list)


def read(value: Any, line: int) -> Reading:
    """Return the conversation of a session, or a BadLine with the reason.

    Args:
        value: The content of the file.
        line: The number of its line, from 1.
    """
    if not recognises(value):
        return BadLine(line=line, reason='no "projectHash" and "messages"')
    messages = [
        {**message, "role": message["type"], "tool_calls": message.get("toolCalls")}
        for message in value["messages"]
        if isinstance(message, dict) and message.get("type") not in (None, *_NOTICES)
    ]
    return conversation_of(messages, line, NAME)


FORMAT = Format(
    name=NAME,
    title="Gemini CLI: the session files in ~/.gemini/tmp",
    seen="0.9 and later",
    link="https://github.com/google-gemini/gemini-cli",
    recognises=recognises,
    read=read,
)
