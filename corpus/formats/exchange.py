"""A request to a model and its response, in the shapes of the common interfaces, as messages.

Invariant: a response in an unknown shape is a fault that names its keys, so that no question is left without
its answer. A table of paths (`Paths`) is all that a log of such pairs needs for a reader. Pure.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from corpus.aliases import Json
from corpus.conversation import Conversation, Turn
from corpus.formats.format import Format, Reading
from corpus.formats.messages import turns_of, with_feedback
from corpus.formats.parts import as_text, as_tools, at, first, keys_of, parsed, text_at, time_of, user_of
from corpus.lines import BadLine

_QUESTIONS = ("messages", "input", "contents", "prompt", "inputs", "question", "query", "prompts")
_SYSTEM = (
    "system",
    "instructions",
    "systemInstruction",
    "system_instruction",
    "system_prompt",
    "systemPrompt",
)
_TEXTS = (
    "response", "text", "completion", "output_text", "generated_text", "answer", "output", "content",
    "result",
)  # fmt: skip
_INSIDE = ("body", "response", "data", "result", "kwargs", "output", "outputs")


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Where a log of exchanges has each part; of several paths, the first with a value counts."""

    needs: tuple[str, ...]
    """Paths that every record has; `a|b` is a choice."""
    request: tuple[str, ...]
    """The request, its messages, or the question."""
    response: tuple[str, ...]
    """The response, its message, or the answer."""
    source: tuple[str, ...] = ()
    """Paths of the user's name, in addition to the usual fields of the record and the request."""
    time: tuple[str, ...] = ()
    """The time of the exchange, for turns without one."""
    feedback: tuple[str, ...] = ("",)
    """Objects that hold a rating or an edit of the answer; "" is the record itself."""


def tools_of(request: Any) -> tuple[Json, ...] | None:
    """Return the tools that a request offers to the model; None if it names none."""
    if not isinstance(request, dict):
        return None
    tools = as_tools(request.get("tools"))
    return as_tools(request.get("functions")) if tools is None else tools


def offered(turns: tuple[Turn, ...], tools: tuple[Json, ...] | None) -> tuple[Turn, ...]:
    """Return the turns, with the tools that the line names on its first and its last answer.

    If the conversation grows by later lines, only their new turns are stored. So the first answer has the
    tools of its own line, and the last one those of the line that added it. A line that Nightschool captured
    names all tools; if it names none, none were offered.
    """
    answers = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
    if tools is None:
        tools = () if any(turns[place].key for place in answers) else None
        if tools is None:
            return turns
    ends = {answers[0], answers[-1]} if answers else set()
    return tuple(replace(turn, tools=tools) if place in ends else turn for place, turn in enumerate(turns))


def has(value: Any, needs: Iterable[str]) -> bool:
    """Return whether a record has a value at each of these paths; `a|b` is a choice."""
    return isinstance(value, dict) and all(first(value, choice.split("|")) is not None for choice in needs)


def paths_format(paths: Paths, *, name: str, title: str, seen: str, link: str) -> Format:
    """Return the format of a log that is read by a table of paths alone."""

    def read(value: Any, line: int) -> Reading:
        return read_exchange(value, line, paths, name)

    return Format(
        name=name, title=title, seen=seen, link=link, read=read,
        recognises=lambda value: has(value, paths.needs),
    )  # fmt: skip


def read_exchange(value: Any, line: int, paths: Paths, name: str) -> Conversation | BadLine:
    """Return the conversation of a record that has a request and a response.

    Args:
        value: The decoded record.
        line: Number of its line.
        paths: Where the record has each part.
        name: Name of the format.
    """
    if not has(value, paths.needs):
        return BadLine(line=line, reason=f"no {' and '.join(paths.needs)}; {keys_of(value)}")
    request = parsed(_filled(value, paths.request))
    question = asked(request)
    if question is None:
        return BadLine(line=line, reason=f"no question is in it; {keys_of(request)}")
    answer = answered_in(_filled(value, paths.response))
    if isinstance(answer, str):
        return BadLine(line=line, reason=answer)
    metadata = [at(holder, "metadata") for holder in (value, request)]
    source = next(filter(None, (text_at(value, path) for path in paths.source)), "")
    moment = time_of({"time": first(value, paths.time)})
    if answer and moment:
        answer = [{**message, "time": message.get("time", moment.isoformat())} for message in answer]
    holders = [parsed(at(value, path)) for path in paths.feedback]
    return conversation_of(
        [*question, *answer],
        line,
        name,
        source=source or user_of(value, request, *metadata),
        feedback=[holder for holder in holders if isinstance(holder, dict)],
        request=request,
    )


def _filled(value: Any, paths: tuple[str, ...]) -> Any:
    """Return the first value at these paths that is not empty; None without one."""
    found = (parsed(at(value, path)) for path in paths)
    return next((item for item in found if item not in (None, "", [], {})), None)


def conversation_of(
    messages: list[Any],
    line: int,
    name: str,
    *,
    source: str = "",
    feedback: Iterable[Json] = (),
    session: str = "",
    request: Any = None,
) -> Conversation | BadLine:
    """Return the conversation that these messages make, or a BadLine with the reason.

    Args:
        messages: The messages.
        line: Number of the line that holds them.
        name: Name of the format.
        source: The user whom the log names; "" without one.
        feedback: Objects that may hold a rating or an edit of the last answer.
        session: The log's id of a session whose lines repeat the whole history; "" without one.
        request: The request, which may define tools; None without one.
    """
    turns = turns_of(messages, line)
    if isinstance(turns, BadLine):
        return turns
    for record in feedback:
        turns = with_feedback(turns, record)
    turns = offered(turns, tools_of(request))
    if not turns:
        return BadLine(line=line, reason="no message has any text")
    return Conversation(source=source, format=name, turns=turns, session=session)


def asked(request: Any) -> list[Any] | None:
    """Return the messages of a request, the system prompt first; None if there is no question in it."""
    request = parsed(request)
    if isinstance(request, str):
        return [{"role": "user", "content": request}] if request.strip() else None
    if isinstance(request, list):
        return _items(request)
    if not isinstance(request, dict):
        return None
    for name in _QUESTIONS:
        inner = parsed(request.get(name))
        if inner in (None, "", [], {}):
            continue
        messages = asked(inner)
        if messages is not None:
            system = next((request[key] for key in _SYSTEM if request.get(key)), None)
            return [{"role": "system", "content": system}, *messages] if system else messages
    return [request] if "role" in request and "content" in request else None


def _items(items: list[Any]) -> list[Any] | None:
    """Return the messages in a list of messages, of items of the Responses API, or of lists of these."""
    if len(items) == 1 and isinstance(items[0], list):
        return _items(items[0])
    messages: list[Any] = []
    for item in items:
        inner = parsed(item) if isinstance(item, str) else item
        if isinstance(inner, str):
            messages.append({"role": "user", "content": inner})
        elif not isinstance(inner, dict):
            messages.append(inner)  # it is refused with its number
        else:
            messages += item_messages(inner)
    return messages or None


def item_messages(item: Json) -> list[Json]:
    """Return one item of a list of messages, or of the Responses API, as messages."""
    kind = item.get("type")
    if kind in ("reasoning", "item_reference", "web_search_call", "file_search_call"):
        return []
    if kind == "local_shell_call":
        call = {"type": "function_call", "name": "shell", "arguments": item.get("action")}
        return [{"role": "assistant", "content": [{**call, "call_id": item.get("call_id")}]}]
    if kind in ("function_call", "custom_tool_call", "mcp_call", "tool_call"):
        return [{"role": "assistant", "content": [{**item, "type": "function_call"}]}]
    if kind in ("function_call_output", "custom_tool_call_output"):
        output = parsed(item.get("output"))  # Codex wraps it
        shown = text_at(output, "output") or text_at(output, "content") or as_text(output)
        return [{"role": "tool", "content": shown, "tool_call_id": item.get("call_id")}]
    if isinstance(item.get("message"), dict) and "role" not in item:
        return [{**item, **item["message"]}]
    if isinstance(item.get("data"), dict) and "content" in item["data"]:  # LangChain: {"type", "data"}
        return [{**item["data"], "role": item.get("type", item["data"].get("type"))}]
    if isinstance(item.get("kwargs"), dict) and isinstance(item.get("id"), list) and item["id"]:
        role = str(item["id"][-1]).removesuffix("Chunk").removesuffix("Message")  # LangChain: a constructor
        return [{**item["kwargs"], "role": role}]
    return [item]


def answered_in(response: Any) -> list[Json] | str:
    """Return the messages of the answer in a response; [] without a response; a fault as text.

    Of several choices the first counts.
    """
    response = parsed(response)
    if response in (None, "", [], {}):
        return []
    if isinstance(response, str):
        return [_answer(response)]
    found = _of_list(response) if isinstance(response, list) else None
    found = _of_object(response) if isinstance(response, dict) else found
    return f"the answer is in no known shape; {keys_of(response)}" if found is None else found


def _answer(content: Any) -> Json:
    return {"role": "assistant", "content": content}


def _of_list(items: list[Any]) -> list[Json] | None:
    """Return the answer in a list: pieces of a stream, messages, items, blocks or generations."""
    if any(isinstance(item, dict) and "choices" in item for item in items):
        deltas = [at(item, "choices.0.delta.content") for item in items]
        text = "".join(delta for delta in deltas if isinstance(delta, str))
        return [_answer(text)] if text else _of_inner({"data": items[0]})
    inner = items[0]
    if isinstance(inner, list):
        return _of_list(inner) if inner else None
    if isinstance(inner, str):
        return [_answer(inner)]
    if not isinstance(inner, dict):
        return None
    if "generation_info" in inner or "generated_text" in inner:
        return _of_object(inner)
    if any(
        isinstance(item, dict) and (item.get("role") or item.get("type") in _ITEM_TYPES) for item in items
    ):
        return [message for item in items if isinstance(item, dict) for message in item_messages(item)]
    return [_answer(items)] if "type" in inner or "text" in inner else None


_ITEM_TYPES = ("message", "function_call", "custom_tool_call", "reasoning", "ai", "constructor")


def _of_object(value: Json) -> list[Json] | None:
    """Return the answer in a response object; None if no shape fits."""
    for shape in (_of_choices, _of_message, _of_content, _of_text, _of_inner):
        found = shape(value)
        if found is not None:
            return found
    return None


def _of_choices(value: Json) -> list[Json] | None:
    """Return the answer of a response that has several to choose from (OpenAI, Gemini, LangChain)."""
    choices = value.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        message = choices[0].get("message", choices[0].get("delta"))
        if isinstance(message, dict):
            return [{"role": "assistant", **message}]
        text = choices[0].get("text")
        return [_answer(text)] if isinstance(text, str) else None
    if isinstance(at(value, "candidates.0.content"), dict):
        return [_answer(at(value, "candidates.0.content.parts"))]
    if isinstance(value.get("generations"), list) and value["generations"]:
        return _of_list(value["generations"])
    return None


def _of_message(value: Json) -> list[Json] | None:
    """Return the answer of a response that holds it as a message (Ollama, LangChain, Bedrock)."""
    message = value.get("message")
    if isinstance(message, dict) and any(name in message for name in ("role", "kwargs", "content")):
        return [{"role": "assistant", **item} for item in item_messages(message)]
    if isinstance(value.get("messages"), list) and value["messages"]:
        messages = _items(value["messages"]) or []
        return [message for message in messages[-1:] if isinstance(message, dict)] or None
    return None


def _of_content(value: Json) -> list[Json] | None:
    """Return the answer of a response that is the message itself (Anthropic)."""
    held = any(isinstance(value.get(name), str | list) for name in ("content", "parts", "tool_calls"))
    if held and (value.get("role") or value.get("content")):
        return [{**value, "role": value.get("role") or "assistant", "type": None}]
    return None


def _of_text(value: Json) -> list[Json] | None:
    """Return the answer of a response that holds it as a text."""
    texts = (value[name] for name in _TEXTS if isinstance(value.get(name), str) and value[name])
    return next(([_answer(text)] for text in texts), None)


def _of_inner(value: Json) -> list[Json] | None:
    """Return the answer of a response that wraps another one."""
    for name in _INSIDE:
        inner = parsed(value.get(name))
        if isinstance(inner, dict | list) and inner:
            found = answered_in(inner)
            return None if isinstance(found, str) else found
    return None
