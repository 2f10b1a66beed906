"""The messages and the tools of a request, read from its JSON and checked.

Invariant: a message or a definition is returned as the chat template takes it, or `UsageError` says what to
change. This module knows nothing about the tokenizer; `requests` reads the other fields.
"""

import json

from corpus.aliases import Json, Message
from corpus.errors import UsageError

ROLES = frozenset({"system", "user", "assistant", "tool"})
"""The roles a message may have."""


def messages(value: object, *, may_be_empty: bool = False) -> list[Message]:
    """Return the messages in this value, once it is checked to be a list of messages."""
    if not isinstance(value, list) or not (value or may_be_empty):
        raise UsageError("messages must be a list of at least one {role, content}")
    return [_message(message) for message in value]


def tools(value: object) -> list[Json]:
    """Return the definitions of tools in this value; [] for None."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(map(_is_tool, value)):
        raise UsageError(
            'tools must be a list of definitions such as {"type": "function", "function": {"name": "search"}}'
        )
    return [_valid(tool, "a tool's definition") for tool in value]


def text(value: object, name: str) -> str:
    """Return the value if it is text in valid Unicode; raise `UsageError` with the field's name otherwise.

    JSON can carry half a character (a lone surrogate), which no tokenizer accepts.
    """
    if not isinstance(value, str):
        raise UsageError(f"{name} must be text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{name} holds half a character (a lone surrogate); send valid Unicode") from error
    return value


def _message(value: object) -> Message:
    """Return a checked message: its role and content, tool calls, and the ids and names that it has."""
    if not isinstance(value, dict):
        raise UsageError("each message must be an object with role and content")
    role = value.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise UsageError(f"a message's role must be one of {', '.join(sorted(ROLES))}")
    content, calls = value.get("content"), value.get("tool_calls")
    if isinstance(content, list):
        content = "\n".join(_text_part(part) for part in content)  # as vLLM joins them, and the log's reader
    if content is None and calls:
        content = ""
    message: Message = {"role": role, "content": text(content, "a message's content")}
    if calls:
        message["tool_calls"] = _tool_calls(calls)
    for name in ("tool_call_id", "name"):
        if value.get(name):
            message[name] = text(value[name], f"a message's {name}")
    return message


def _tool_calls(value: object) -> list[Json]:
    """Return the checked tool calls of a message."""
    if not isinstance(value, list) or not all(map(_is_tool, value)):
        raise UsageError(
            'tool_calls must be a list such as [{"function": {"name": "search", "arguments": "{}"}}]'
        )
    return [_valid(call, "a tool call") for call in value]


def _is_tool(value: object) -> bool:
    """Return whether a value names a function: the definition of a tool, or a call."""
    function = value.get("function") if isinstance(value, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _valid(value: Json, name: str) -> Json:
    """Return a JSON object if all text in it is valid Unicode; `name` says what it is."""
    text(json.dumps(value, ensure_ascii=False), name)
    return value


def _text_part(part: object) -> str:
    """Return the text of one part of a message's content."""
    if not isinstance(part, dict) or part.get("type") != "text":
        raise UsageError("a message's content may only have parts of type text")
    return text(part.get("text"), "a content part")
