"""Parsers that the formats share: roles, times, users, tool calls, and values at a path.

Invariant: every function accepts any value. A value that cannot be parsed gives None (an unknown user gives
""), never a guess and never an exception. This module knows nothing about formats.
"""

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from corpus.aliases import Json
from corpus.conversation import ToolCall

ROLES = {
    "system": ("system", "developer", "instructions"),
    "user": ("user", "human", "you", "customer", "prompter"),
    "assistant": ("assistant", "gpt", "chatgpt", "model", "bot", "ai", "gemini", "claude", "chatbot"),
    "tool": ("tool", "function", "observation", "function_response", "tool_result", "toolresult", "ipython"),
}
"""The names that log formats use for a role, by Nightschool's own name of the role."""

_BY_NAME = {name: role for role, names in ROLES.items() for name in names}
_LONG_FRACTION = re.compile(r"(\.\d{6})\d+")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")

TIMES = ("timestamp", "created_at", "time", "created", "create_time", "createdAt", "date", "datetime")
"""The fields in which a message may have its time."""

USERS = ("user", "user_id", "userId", "end_user")
"""The fields that may name the user."""


def as_role(name: Any) -> str | None:
    """Return Nightschool's own name of a role; None for an unknown role."""
    return _BY_NAME.get(name.strip().lower()) if isinstance(name, str) else None


def as_text(content: Any) -> str:
    """Return a value as text: a text as it is, None as "", texts in a list joined, other values as JSON."""
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if isinstance(content, list):
        return "\n".join(filter(None, map(as_text, content)))
    if isinstance(content, dict) and isinstance(content.get("text"), str):
        return str(content["text"])
    return json.dumps(content, ensure_ascii=False)


NO_OUTPUT = "[no output]"
"""The text of a turn for the result of a tool that returned nothing; its structure has the empty content."""


def tool_call(name: Any, arguments: Any) -> str:
    """Return a tool call as text, with the arguments as JSON."""
    return f"[tool call: {name}({_arguments(arguments)})]"


def as_call(name: Any, arguments: Any, id: Any) -> ToolCall:
    """Return a tool call as a record."""
    return ToolCall(name=str(name), arguments=_arguments(arguments), id=id if isinstance(id, str) else "")


def _arguments(arguments: Any) -> str:
    """Return the arguments of a tool call as JSON text; a text is taken as JSON already."""
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def as_tools(value: Any) -> tuple[Json, ...] | None:
    """Return the tools that a request offers to the model, each in OpenAI's form; None if it names none.

    A definition in Anthropic's form is converted, and so is a function of OpenAI's older form. Values that
    define no function are left out.
    """
    if not isinstance(value, list):
        return None
    return tuple(tool for tool in map(_tool, value) if tool is not None)


def _tool(value: Any) -> Json | None:
    """Return the definition of one tool in OpenAI's form; None if the value defines no function."""
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("function"), dict):
        return value if isinstance(value["function"].get("name"), str) else None
    if not isinstance(value.get("name"), str):
        return None
    parameters = value.get("input_schema", value.get("parameters"))
    named = {"name": value["name"], "description": value.get("description"), "parameters": parameters}
    return {"type": "function", "function": {key: part for key, part in named.items() if part is not None}}


def as_time(value: Any) -> datetime | None:
    """Return a time as an aware UTC time.

    The value is an ISO 8601 text, a text in the form of mail headers, or the seconds, milliseconds,
    microseconds or nanoseconds since 1970, as a number or as text.

    Returns:
        None for any other value.
    """
    try:
        if isinstance(value, str):
            return _time_of_text(value.strip())
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e20:
            while value > 1e11:  # seconds reach this number in the year 5138
                value /= 1000
            return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError, TypeError, IndexError):  # year 10,000, or a clock set wrong
        return None
    return None


def _time_of_text(text: str) -> datetime | None:
    """Return the time that a text gives; a ValueError is raised for most texts that give none."""
    if _NUMBER.fullmatch(text):
        return as_time(float(text))
    try:
        moment = datetime.fromisoformat(_LONG_FRACTION.sub(r"\1", text))
    except ValueError:
        moment = parsedate_to_datetime(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


def time_of(*records: Any, fields: Iterable[str] = TIMES) -> datetime | None:
    """Return the first time that one of these records has in one of the fields; None without one."""
    for record in records:
        if isinstance(record, dict):
            for field in fields:
                if field in record and (moment := as_time(record[field])):
                    return moment
    return None


def user_of(*records: Any) -> str:
    """Return the user in the first of these records that names a user; "" if none does."""
    for record in records:
        for name in USERS:
            user = record.get(name) if isinstance(record, dict) else None
            user = user.get("id") if isinstance(user, dict) else user
            if isinstance(user, str | int) and not isinstance(user, bool) and str(user).strip():
                return str(user).strip()
    return ""


def at(value: Any, path: str) -> Any:
    """Return the value at a path of keys and indices, such as "choices.0.message"; None without one.

    If a value on the path is a text that holds JSON, it is parsed, because databases and exports store
    objects as text.
    """
    for step in path.split(".") if path else ():
        value = parsed(value)
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.lstrip("-").isdigit() and -len(value) <= int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def items_at(value: Any, path: str) -> list[Any]:
    """Return the list at a path; [] if there is none."""
    found = parsed(at(value, path))
    return found if isinstance(found, list) else []


def first_text(value: Any, paths: Iterable[str]) -> str:
    """Return the first text at these paths that is not empty; "" if there is none."""
    return next(filter(None, (text_at(value, path) for path in paths)), "")


def first(value: Any, paths: Iterable[str]) -> Any:
    """Return the value at the first of these paths that has one; None if none has."""
    return next((found for path in paths if (found := at(value, path)) is not None), None)


def parsed(value: Any) -> Any:
    """Return the object or the list that a text holds as JSON; any other value as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def text_at(value: Any, path: str) -> str:
    """Return the text at a path; "" if there is none. A number is a text too, because ids may be numbers."""
    found = at(value, path)
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    return found if isinstance(found, str) else ""


def keys_of(value: Any) -> str:
    """Return the names of an object's keys for a reason: at most eight, and none that may hold a secret."""
    if not isinstance(value, dict):
        return f"it is {_kind(value)}"
    names = [key for key in value if re.fullmatch(r"[A-Za-z_][\w-]{0,29}", key)][:8]
    return f"its keys: {', '.join(names)}" if names else "it has no keys"


def _kind(value: Any) -> str:
    names = {str: "a text", list: "a list", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")
