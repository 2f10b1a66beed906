"""Reader of OpenAI messages: each line is `{"messages": [...]}` or a captured request with its response.

Invariant: one line is one whole conversation. A message without text and without a tool call gives no turn,
unless it is the result of a tool. The structure of tool calls and results is kept beside their text. A rating
of the line belongs to its last answer. A line that names no user gives a conversation without a
source.
"""

from dataclasses import replace
from typing import Any

from corpus.aliases import Json
from corpus.conversation import Conversation, Structure, ToolCall, Turn
from corpus.formats.parts import (
    NO_OUTPUT,
    as_call,
    as_edit,
    as_rating,
    as_role,
    as_text,
    as_time,
    as_tools,
    tool_call,
    user_of,
)
from corpus.lines import BadLine

NAME = "openai"

_TIMES = ("timestamp", "created_at", "time", "created", "create_time")


def recognises(value: Any) -> bool:
    """Return whether a decoded line has a list of OpenAI messages."""
    return isinstance(value, dict) and isinstance(_request(value).get("messages"), list)


def read(value: Any, line: int) -> Conversation | BadLine | None:
    """Return the conversation on one line, or a BadLine with the reason.

    Args:
        value: The decoded line.
        line: The line's number from 1.
    """
    if not recognises(value):
        return BadLine(line=line, reason='no list "messages"')
    request = _request(value)
    metadata = [holder.get("metadata") for holder in (value, request)]
    turns = turns_of([*request["messages"], *_answers(value)], line)
    if isinstance(turns, BadLine):
        return turns
    turns = _offered(with_feedback(turns, value), tools_of(request))
    if not turns:
        return BadLine(line=line, reason="no message has any text")
    return Conversation(
        source=user_of(value, request, *metadata), format=NAME, turns=turns, session=_name(value, "session")
    )


def tools_of(request: Json) -> tuple[Json, ...] | None:
    """Return the tools that a request offers to the model; None if it names none."""
    tools = as_tools(request.get("tools"))
    return as_tools(request.get("functions")) if tools is None else tools


def _offered(turns: tuple[Turn, ...], tools: tuple[Json, ...] | None) -> tuple[Turn, ...]:
    """Return the turns, with the tools that the line names on its first and its last answer.

    If the conversation grows by later lines, only their new turns are stored. So the first answer has the
    tools of its own line, and the last one those of the line that added it. A line that Nightschool captured
    names all tools: without any there were none.
    """
    answers = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
    if tools is None:
        tools = () if any(turns[place].key for place in answers) else None
    ends = {answers[0], answers[-1]} if answers else set()
    return tuple(replace(turn, tools=tools) if place in ends else turn for place, turn in enumerate(turns))


def turns_of(messages: list[Any], line: int) -> tuple[Turn, ...] | BadLine:
    """Return the messages that have a text as turns, or a BadLine for the first unreadable message."""
    turns: list[Turn] = []
    for number, message in enumerate(messages, start=1):
        turn = _turn(message, line) if isinstance(message, dict) else "not an object"
        if isinstance(turn, str):
            return BadLine(line=line, reason=f"message {number}: {turn}")
        if turn.text.strip():
            turns.append(turn)
    return tuple(turns)


def with_feedback(turns: tuple[Turn, ...], record: Json) -> tuple[Turn, ...]:
    """Return the turns, with the rating and the edit of the whole line on the last answer among them.

    Args:
        turns: The turns of the line.
        record: The decoded line.
    """
    rating, edited = _feedback(record)
    answers = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
    if not answers or (rating is None and edited is None):
        return turns
    last = turns[answers[-1]]
    rated = replace(
        last,
        rating=last.rating if rating is None else rating,
        edited=last.edited if edited is None else edited,
    )
    return (*turns[: answers[-1]], rated, *turns[answers[-1] + 1 :])


def _turn(message: Json, line: int) -> Turn | str:
    """Return one message as a turn, or as text the fault of a message that cannot be read."""
    role = as_role(message.get("role"))
    content = as_text(message.get("content"))
    if role is None or content is None:
        return "unknown role" if role is None else "content is neither text nor a list of parts"
    rating, edited = _feedback(message)
    moments = [as_time(message[name]) for name in _TIMES if name in message]
    structure = _structure(message, content)
    calls = [tool_call(call.name, call.arguments) for call in structure.calls]
    text = "\n".join(filter(None, [content, *calls]))
    if structure.call_id and not text.strip():
        text = NO_OUTPUT
    return Turn(
        role=role, text=text, line=line, time=next(filter(None, moments), None), rating=rating, edited=edited,
        key=_name(message, "receipt"), structure=None if structure == Structure(content=text) else structure,
    )  # fmt: skip


def _structure(message: Json, content: str) -> Structure:
    """Return the structure of a message; `content` is the text of its content."""
    return Structure(
        content=content,
        calls=_calls(message),
        call_id=_name(message, "tool_call_id"),
        name=_name(message, "name"),
    )


def _name(record: Json, field: str) -> str:
    """Return the text of a field; "" if the record does not have it, or something else there."""
    return record[field] if isinstance(record.get(field), str) else ""


def _feedback(record: Json) -> tuple[float | None, str | None]:
    """Return the rating and the edit of a message or a line; each is None if there is none."""
    ratings = [as_rating(record[name]) for name in ("rating", "feedback") if name in record]
    rating = next((rating for rating in ratings if rating is not None), None)
    return rating, as_edit(record, record.get("feedback"))


def _calls(message: Json) -> tuple[ToolCall, ...]:
    """Return the tool calls of a message."""
    calls = message.get("tool_calls")
    called = [call for call in (calls if isinstance(calls, list) else []) if isinstance(call, dict)]
    called.append({"function": message.get("function_call")})  # the older form, with one call
    functions = [
        (call["function"], call.get("id")) for call in called if isinstance(call.get("function"), dict)
    ]
    return tuple(as_call(f.get("name"), f.get("arguments"), id) for f, id in functions)


def _request(value: Json) -> Json:
    """Return the object that has the messages: the decoded line, or the request in a captured exchange."""
    for holder in (value, value.get("request"), value.get("body")):
        inner = holder.get("body", holder) if isinstance(holder, dict) else None
        for candidate in (holder, inner):
            if isinstance(candidate, dict) and isinstance(candidate.get("messages"), list):
                return candidate
    return value


def _answers(value: Json) -> list[Any]:
    """Return the response to a captured request as a list of one message; empty without a response.

    Of several choices the first counts.
    """
    response = value.get("response", value)
    if isinstance(response, str):
        return [{"role": "assistant", "content": response}]
    for holder in (response, response.get("body") if isinstance(response, dict) else None):
        choices = holder.get("choices") if isinstance(holder, dict) else None
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            return [choices[0]["message"]] if "message" in choices[0] else []
    return []
