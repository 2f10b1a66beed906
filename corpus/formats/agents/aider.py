"""Reader of Aider's chat history: a Markdown text, of which `corpus.formats.texts` makes records.

Invariant: the lines that begin with `####` are the user's, those that begin with `>` are Aider's notices,
and all others are the model's answer. A command of Aider (`/add`, `/run`) is no request to the model, except
those that pass one on (`/ask`, `/code`, `/architect`).
"""

from collections.abc import Iterator
from typing import Any

from corpus.formats.format import Format, Reading
from corpus.formats.sessions import Message, session
from corpus.lines import BadLine

NAME = "aider"

ASKING = ("/ask ", "/code ", "/architect ", "/chat-mode ask ", "/chat-mode code ")


def recognises(value: Any) -> bool:
    """Return whether a record is a session of Aider's chat history."""
    return isinstance(value, dict) and isinstance(value.get("aider"), list)


def read(value: Any, line: int) -> Reading:
    """Return the conversation of a session, or a BadLine with the reason.

    Args:
        value: The session: its lines under `aider`.
        line: The number of its first line, from 1.
    """
    if not recognises(value):
        return BadLine(line=line, reason='no lines under "aider"')
    return tuple(session(_messages([text for text in value["aider"] if isinstance(text, str)], line), NAME))


def _messages(lines: list[str], line: int) -> Iterator[Message]:
    """Yield the messages of a session; the lines of one speaker are one message."""
    role, text, began = "", list[str](), line
    for number, content in enumerate([*lines, "> "], start=line):
        who, said = _speaker(content)
        if who != role and not (who == "assistant" and not said.strip()):
            words = "\n".join(text).strip()
            if words and role == "assistant":
                yield Message(line=began, value={"role": role, "content": words})
            elif words and role == "user" and (asked := _asked(words)):
                yield Message(line=began, value={"role": role, "content": asked})
            role, text, began = who, [], number
        text.append(said)


def _speaker(content: str) -> tuple[str, str]:
    """Return who wrote a line, and its words."""
    if content.startswith("####"):
        return "user", content[4:].strip()
    if content.startswith(("> ", "# aider chat")) or content.rstrip() == ">":
        return "notice", content
    return "assistant", content


def _asked(words: str) -> str:
    """Return a person's request; "" for a command of Aider."""
    for command in ASKING:
        words = words.removeprefix(command)
    return "" if words.startswith(("/", "!")) else words


FORMAT = Format(
    name=NAME,
    title="Aider: .aider.chat.history.md",
    seen="0.50 to 0.86",
    link="https://aider.chat/docs/config/options.html",
    recognises=recognises,
    read=read,
)
