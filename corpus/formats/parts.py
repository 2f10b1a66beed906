"""Parsers that the formats share: text in parts, roles, times, ratings, edits and users.

Invariant: every function accepts any value. A value that cannot be parsed gives None (an unknown user gives
""), never a guess and never an exception. This module knows nothing about formats.
"""

import json
import re
from datetime import UTC, datetime
from typing import Any

from corpus.aliases import Json
from corpus.conversation import ToolCall

ROLES = {
    "system": ("system", "developer"),
    "user": ("user", "human"),
    "assistant": ("assistant", "gpt", "chatgpt", "model", "bot"),
    "tool": ("tool", "function", "observation", "function_response"),
}
"""The names that log formats use for a role, by Nightschool's own name of the role."""

LIKED = {"up", "thumbs_up", "positive", "good", "like", "liked", "upvote", "helpful", "👍"}
DISLIKED = {"down", "thumbs_down", "negative", "bad", "dislike", "disliked", "downvote", "unhelpful", "👎"}

MOST_STARS = 5
"""A rating over 1 and up to this number is read as stars of five; a rating from -1 to 1 is used as it is."""

_KIND = re.compile(r"[a-z_]{1,40}")
"""The types that may stand, in brackets, for a part of a message that has no text."""


def as_role(name: Any) -> str | None:
    """Return Nightschool's own name of a role; None for an unknown role."""
    word = name.lower() if isinstance(name, str) else ""
    return next((role for role, words in ROLES.items() if word in words), None)


def as_text(content: Any) -> str | None:
    """Return the text of a message's content; None if it cannot be read.

    The content is a string, None (which gives ""), a part, or a list of parts.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        return None
    texts = [_part_text(part) for part in content]
    return None if None in texts else "\n".join(text for text in texts if text)


def _part_text(part: Any) -> str | None:
    """Return the text of one part, or its type in brackets if it has no text; None if it has neither."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return None
    for name in ("text", "refusal"):
        if isinstance(part.get(name), str):
            return str(part[name])
    kind = part.get("type")
    return f"[{kind}]" if isinstance(kind, str) and _KIND.fullmatch(kind) else None


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
    """Return an ISO 8601 text, or seconds or milliseconds since 1970, as an aware UTC time.

    Returns:
        None for any other value.
    """
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return datetime.fromtimestamp(value / 1000 if value > 1e11 else value, UTC)
    except (ValueError, OverflowError, OSError):  # year 10,000, or a clock set to nonsense
        return None
    return None


def as_rating(value: Any) -> float | None:
    """Return a rating as a number from -1 (bad) to 1 (good); None for any other value.

    A rating is a thumb, a word, a number of stars, a text such as "4/5", or an object with one of these.
    """
    if isinstance(value, dict):
        ratings = [as_rating(value[name]) for name in ("rating", "score", "value", "type") if name in value]
        return next((rating for rating in ratings if rating is not None), None)
    if isinstance(value, bool):
        return 1.0 if value else -1.0
    if isinstance(value, str):
        return _rating_word(value.strip().lower())
    if not isinstance(value, int | float):
        return None
    if -1 <= value <= 1:
        return float(value)
    return _stars(value, MOST_STARS) if 1 < value <= MOST_STARS else None


def _rating_word(word: str) -> float | None:
    """Return the rating, -1 to 1, that a word, a number or a fraction gives; None for any other text."""
    got, slash, most = word.partition("/")
    try:
        return _stars(float(got), float(most)) if slash else as_rating(float(word))
    except ValueError:
        word = re.sub(r"[\s_-]+", "_", word)
    return 1.0 if word in LIKED else -1.0 if word in DISLIKED else None


def _stars(got: float, most: float) -> float | None:
    """Return `got` of `most` stars as a rating: -1 for one star, 1 for all; None for an impossible number."""
    if not (1 < most < 1000 and 0 <= got <= most):
        return None
    return max(-1.0, (2 * got - most - 1) / (most - 1))


def as_edit(*holders: Any) -> str | None:
    """Return the text that a person wrote in place of an answer; None if there is none.

    Args:
        holders: The objects that may have it; the first that has it counts.
    """
    for holder in holders:
        for name in ("edited", "correction", "corrected", "preferred"):
            if isinstance(holder, dict) and isinstance(holder.get(name), str) and holder[name].strip():
                return str(holder[name])
    return None


def user_of(*records: Any) -> str:
    """Return the user whom the first of these records to name one names; "" if none does."""
    for record in records:
        for name in ("user", "user_id"):
            user = record.get(name) if isinstance(record, dict) else None
            user = user.get("id") if isinstance(user, dict) else user
            if isinstance(user, str | int) and not isinstance(user, bool) and str(user).strip():
                return str(user).strip()
    return ""
