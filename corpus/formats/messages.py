"""From the messages of any log to turns: who said what, and what was only shown, called or thought.

Invariant: a message without words and without a tool call gives no turn, and the result of a tool is a turn
of role `tool`, whoever is named as its speaker. A message whose words are in a shape that is not known gives
a BadLine that names its keys, so that no question is left without its answer. Pure.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from corpus.aliases import Json
from corpus.conversation import Structure, ToolCall, Turn
from corpus.formats.feedback import NOTHING, Feedback, feedback_of
from corpus.formats.machine import answered, spoken
from corpus.formats.parts import NO_OUTPUT, TIMES, as_call, as_role, as_text, keys_of, time_of, tool_call
from corpus.lines import BadLine

_THOUGHTS = frozenset(
    "thinking redacted_thinking reasoning reasoning_text think thought thoughts reasoning-delta "
    "reasoning_content summary_text encrypted_content".split()
)
_CALLS = frozenset(
    "tool_use server_tool_use mcp_tool_use tool_call tool-call toolCall function_call functionCall "
    "custom_tool_call dynamic-tool".split()
)
_RESULTS = frozenset(
    "tool_result tool-result toolResult function_call_output custom_tool_call_output function_response "
    "tool_call_response web_search_tool_result mcp_tool_result code_execution_tool_result".split()
)
_STEPS = frozenset("step-start step-finish step_start step_finish snapshot patch stream-start finish".split())
_BODY = ("content", "parts", "text", "value", "contents", "message")
_ROLE = ("role", "from", "sender", "author", "speaker", "type")
_PLAIN = frozenset(("role", "content", *TIMES))
_BESIDE = ("tool_calls", "function_call", "refusal", "reasoning_content", "reasoning", "toolInvocations")


@dataclass(kw_only=True)
class Said:
    """What a message holds."""

    words: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    results: list[tuple[str, str]] = field(default_factory=list)
    """Results of tools: the id of the call, and the text."""


class _UnknownError(Exception):
    """A part of a message has a shape that is not known; the message names its keys."""


def turns_of(messages: Iterable[Any], line: int) -> tuple[Turn, ...] | BadLine:
    """Return the messages as turns, or a BadLine for the first message that cannot be read.

    Args:
        messages: Objects with a role and a content, in the shapes of any known log.
        line: Number of the line that holds them.
    """
    turns: list[Turn] = []
    for number, message in enumerate(messages, start=1):
        try:
            turns += turns_in(message, line)
        except _UnknownError as unknown:
            return BadLine(line=line, reason=f"message {number}: {unknown}")
    return tuple(turns)


def turns_in(message: Any, line: int) -> list[Turn]:
    """Return the turns of one message: the results of tools first, then the words."""
    if not isinstance(message, dict):
        raise _UnknownError("not an object")
    if plain := _plain_turn(message, line):
        return [plain]
    role = role_of(message)
    if role is None:
        raise _UnknownError(f"unknown role; {keys_of(message)}")
    said = said_in(message)
    words = "\n".join(filter(None, said.words))
    name = as_text(message.get("name")) if isinstance(message.get("name"), str) else ""
    results = [_result(text, call_id, name if role == "tool" else "") for call_id, text in said.results]
    if role == "tool" and (words.strip() or not results):
        call_id = message.get("tool_call_id")
        results.append(_result(words, call_id if isinstance(call_id, str) else "", name))
    told = [(text, structure) for text, structure in results if text.strip()]
    turns = [_turn("tool", text, structure, message, line) for text, structure in told]
    if role == "tool":
        return turns
    clean = answered(words) if role == "assistant" else spoken(words) if role == "user" else words
    calls = [tool_call(call.name, call.arguments) for call in said.calls]
    text = "\n".join(filter(None, [clean, *calls]))
    seen = words if role == "user" else clean  # the model saw what a client added to a person's words
    structure = Structure(content=seen, calls=tuple(said.calls), name=name)
    if not text.strip():
        return turns
    turn = with_feedback_on(_turn(role, text, structure, message, line), feedback_of(message))
    return [turn, *turns] if role == "assistant" else [*turns, turn]


def _plain_turn(message: Json, line: int) -> Turn | None:
    """Return the turn of a message of a role, a text and perhaps a time, as most are; None for others."""
    text = message.get("content")
    if not isinstance(text, str) or not _PLAIN.issuperset(message):
        return None
    role = as_role(message.get("role"))
    if role is None or role == "tool" or not text.strip():
        return None
    clean = answered(text) if role == "assistant" else spoken(text) if role == "user" else text
    if clean != text:
        return None
    return Turn(role=role, text=text, line=line, time=time_of(message) if len(message) > 2 else None)


def _result(text: str, call_id: str, name: str) -> tuple[str, Structure]:
    """Return the text and the structure of a turn for the result of a tool."""
    shown = text if text.strip() or not call_id else NO_OUTPUT
    return shown, Structure(content=text, call_id=call_id, name=name)


def _turn(role: str, text: str, structure: Structure, message: Json, line: int) -> Turn:
    """Return a turn; its structure is left out if the text says the same."""
    receipt = message.get("receipt")  # of Nightschool's own capture
    key = receipt if isinstance(receipt, str) and role != "tool" else ""
    plain = structure.content == text and not (
        structure.calls or structure.call_id or structure.name or structure.answer
    )
    shape = None if plain else structure
    return Turn(role=role, text=text, line=line, time=time_of(message), key=key, structure=shape)


def role_of(message: Json) -> str | None:
    """Return the role of a message; None if it names none that is known."""
    if isinstance(message.get("isCreatedByUser"), bool):
        return "user" if message["isCreatedByUser"] else "assistant"
    for name in _ROLE:
        value = message.get(name)
        value = value.get("role") if isinstance(value, dict) else value
        if value is not None:
            return as_role(value)
    return None


def said_in(message: Json) -> Said:
    """Return what a message holds; its words may be in any of the fields that logs use for them."""
    said = Said()
    known = [name for name in _BODY if name in message]
    for name in known:
        if message[name] not in (None, "", [], {}):
            _add(said, message[name])
            break
    if not known and not any(name in message for name in _BESIDE):
        raise _UnknownError(f"no text in it; {keys_of(message)}")
    if isinstance(message.get("refusal"), str) and not said.words:
        said.words.append(message["refusal"])
    said.calls.extend(_calls(message))
    return said


def _calls(message: Json) -> Iterator[ToolCall]:
    """Yield the tool calls that stand beside the content of a message."""
    calls = message.get("tool_calls")
    called = [*calls] if isinstance(calls, list) else []
    called.append({"function": message.get("function_call")})  # the older form, with one call
    for call in called:
        function = call.get("function", call) if isinstance(call, dict) else None
        if isinstance(function, dict) and ("name" in function or "arguments" in function):
            arguments = function.get("arguments", function.get("args", function.get("input")))
            yield as_call(function.get("name"), arguments, call.get("id"))


def _add(said: Said, content: Any) -> None:
    """Add a message's content to what it holds: a text, a part, or a list of parts."""
    if isinstance(content, str):
        said.words.append(content)
    elif isinstance(content, list):
        for part in content:
            _add(said, part)
    elif isinstance(content, dict):
        _add_part(said, content)
    elif content is not None:
        raise _UnknownError("content is neither text nor a list of parts")


def _add_part(said: Said, part: Json) -> None:
    """Add one part of a content, by its type."""
    kind = str(part.get("type", "")) if isinstance(part.get("type"), str) else ""
    if kind in _STEPS or kind in _THOUGHTS or part.get("thought") is True:
        return
    if isinstance(part.get("functionCall"), dict):  # Gemini
        called = part["functionCall"]
        said.calls.append(as_call(called.get("name"), called.get("args"), called.get("id")))
    elif "functionResponse" in part:
        said.results.append(("", as_text(part["functionResponse"])))
    elif kind in _RESULTS:
        said.results.append(
            (_id_of(part), as_text(_first_of(part, "content", "output", "result", "response")))
        )
    elif kind in _CALLS or kind.startswith("tool-"):
        name = _first_of(part, "name", "toolName") or kind.removeprefix("tool-")
        said.calls.append(as_call(name, _first_of(part, "input", "arguments", "args"), _id_of(part)))
        if part.get("output") is not None:
            said.results.append((_id_of(part), as_text(part["output"])))
    elif (text := _text_of(part)) is not None:
        said.words.append(text)
    elif isinstance(part.get("content"), str | list):
        _add(said, part["content"])
    elif kind and kind.replace("-", "_").isidentifier() and len(kind) <= 40:
        said.words.append(f"[{kind}]")
    else:
        raise _UnknownError(f"a part of its content is in no known shape; {keys_of(part)}")


def _id_of(part: Json) -> str:
    """Return the id of a call of a tool, or of the call whose result this is; "" without one."""
    named = _first_of(part, "tool_use_id", "tool_call_id", "call_id", "toolCallId", "id")
    return named if isinstance(named, str) else ""


def _text_of(part: Json) -> str | None:
    """Return the text of a part; None if it has none."""
    for name in ("text", "refusal", "input_text", "output_text", "value"):
        text = part.get(name)
        if isinstance(text, dict):  # the Assistants API
            text = text.get("value")
        if isinstance(text, str):
            return text
    return None


def _first_of(part: Json, *names: str) -> Any:
    return next((part[name] for name in names if part.get(name) is not None), None)


def with_feedback_on(turn: Turn, feedback: Feedback) -> Turn:
    """Return an answer with what a person thought of it; what the feedback does not say stays."""
    if not feedback or turn.role != "assistant":
        return turn
    return replace(
        turn,
        text=turn.text if feedback.original is None else feedback.original,
        rating=turn.rating if feedback.rating is None else feedback.rating,
        score=turn.score if feedback.score is None else feedback.score,
        edited=turn.edited if feedback.edited is None else feedback.edited,
    )


def with_feedback(turns: tuple[Turn, ...], record: Json) -> tuple[Turn, ...]:
    """Return the turns, with the rating and the edit of the whole line on the last answer among them.

    Args:
        turns: The turns of the line.
        record: The decoded line.
    """
    feedback = feedback_of(record)
    if feedback is NOTHING:
        return turns
    answers = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
    if not answers or not feedback:
        return turns
    last = answers[-1]
    return (*turns[:last], with_feedback_on(turns[last], feedback), *turns[last + 1 :])


def together(first: Turn, more: Turn) -> Turn:
    """Return two pieces of an answer as one turn."""
    one, other = (turn.structure or Structure(content=turn.text) for turn in (first, more))
    content = "\n".join(filter(None, (one.content, other.content)))
    structure = replace(one, content=content, calls=(*one.calls, *other.calls))
    text = f"{first.text}\n{more.text}"
    plain = structure == Structure(content=text)
    return replace(first, text=text, structure=None if plain else structure)
