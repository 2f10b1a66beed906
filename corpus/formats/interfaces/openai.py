"""Reader of OpenAI messages: each line is `{"messages": [...]}` or a captured request with its response.

Invariant: one line is one whole conversation. A message without text and without a tool call gives no turn. A
rating of the line belongs to its last answer. A line that names no user gives a conversation without a
source.
"""

from typing import Any

from corpus.conversation import Conversation
from corpus.formats.exchange import answered_in, conversation_of
from corpus.formats.format import Format, Reading
from corpus.formats.parts import at, first, parsed, user_of
from corpus.lines import BadLine

NAME = "openai"

_HOLDERS = ("", "request", "request.body", "body", "body.body", "conversation")
_ANSWERS = ("response.body", "response", "body.response", "completion", "output", "answer")


def recognises(value: Any) -> bool:
    """Return whether a decoded line has a list of messages, at its top or in a request."""
    return isinstance(value, dict) and _request(value) is not None


def read(value: Any, line: int) -> Reading:
    """Return the conversation on one line, or a BadLine with the reason.

    Args:
        value: The decoded line.
        line: The line's number from 1.
    """
    request = _request(value) if isinstance(value, dict) else None
    if request is None:
        return BadLine(line=line, reason='no list "messages"')
    holder = value if "choices" in value else first(value, _ANSWERS)
    answers = answered_in(holder) if holder is not None else []
    if isinstance(answers, str):
        return BadLine(line=line, reason=answers)
    metadata = [at(holder, "metadata") for holder in (value, request)]
    session = value.get("session")
    system = request.get("system")
    return conversation_of(
        [*([{"role": "system", "content": system}] if system else []), *request["messages"], *answers],
        line,
        NAME,
        source=user_of(value, request, *metadata),
        feedback=[value],
        session=session if isinstance(session, str) else "",
        request=request,
    )


def _request(value: Any) -> Any:
    """Return the object that has the messages: the decoded line, or the request in a captured exchange."""
    for path in _HOLDERS:
        holder = parsed(at(value, path))
        if isinstance(holder, dict) and isinstance(parsed(holder.get("messages")), list):
            return {**holder, "messages": parsed(holder["messages"])}
    return None


def conversation(value: Any) -> Conversation | None:
    """Return the conversation on a line; None if there is none that can be read."""
    found = read(value, 1)
    return found if isinstance(found, Conversation) else None


FORMAT = Format(
    name=NAME,
    title="Chat messages, alone or as a request with its response",
    seen="OpenAI chat completions; Anthropic messages with blocks; Ollama; the Vercel AI SDK",
    link="https://platform.openai.com/docs/api-reference/chat",
    recognises=recognises,
    read=read,
)
