"""What the formats have in common: text in parts, roles, times, ratings, users.

Invariant: total functions. What cannot be understood is None, never a guess and never an exception.
Knows no format.
"""

import json
import re
from datetime import UTC, datetime
from typing import Any

ROLES = {
    "system": ("system", "developer"),
    "user": ("user", "human"),
    "assistant": ("assistant", "gpt", "chatgpt", "model", "bot"),
    "tool": ("tool", "function", "observation", "function_response"),
}
"""Our words for who speaks, and the formats' words."""

LIKED = {"up", "thumbs_up", "positive", "good", "like", "liked", "upvote", "helpful", "👍"}
DISLIKED = {"down", "thumbs_down", "negative", "bad", "dislike", "disliked", "downvote", "unhelpful", "👎"}

MOST_STARS = 5
"""Numbers from 2 to 5 are read as stars of five; -1 to 1 as they are."""

_KIND = re.compile(r"[a-z_]{1,40}")
"""Names of parts without words that are fit to be shown in their place."""


def as_role(name: Any) -> str | None:
    """Our word for a speaker."""
    word = name.lower() if isinstance(name, str) else ""
    return next((role for role, words in ROLES.items() if word in words), None)


def as_text(content: Any) -> str | None:
    """The words of a message's content: a string, nothing, or a list of parts."""
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
    """The words of one part; what has none is named in brackets."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return None
    for name in ("text", "refusal"):
        if isinstance(part.get(name), str):
            return str(part[name])
    kind = part.get("type")
    return f"[{kind}]" if isinstance(kind, str) and _KIND.fullmatch(kind) else None


def tool_call(name: Any, arguments: Any) -> str:
    """A call of a tool, in words."""
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return f"[tool call: {name}({arguments})]"


def as_time(value: Any) -> datetime | None:
    """An ISO 8601 text, or seconds or milliseconds since 1970, as an aware UTC time."""
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
    """A reader's rating from -1 (bad) to 1 (good): a thumb, a word, stars, "4/5", or an object with one."""
    if isinstance(value, dict):
        found = [as_rating(value[name]) for name in ("rating", "score", "value", "type") if name in value]
        return next((rating for rating in found if rating is not None), None)
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
    """A rating in words, as a number or as a fraction."""
    got, slash, most = word.partition("/")
    try:
        return _stars(float(got), float(most)) if slash else as_rating(float(word))
    except ValueError:
        word = re.sub(r"[\s_-]+", "_", word)
    return 1.0 if word in LIKED else -1.0 if word in DISLIKED else None


def _stars(got: float, most: float) -> float | None:
    """Stars from 1 to `most`, mapped to -1 to 1."""
    if not (1 < most < 1000 and 0 <= got <= most):
        return None
    return max(-1.0, (2 * got - most - 1) / (most - 1))


def as_edit(*holders: Any) -> str | None:
    """What a person wrote in place of an answer, from the first of these objects that has it."""
    for holder in holders:
        for name in ("edited", "correction", "corrected", "preferred"):
            if isinstance(holder, dict) and isinstance(holder.get(name), str) and holder[name].strip():
                return str(holder[name])
    return None


def user_of(*records: Any) -> str:
    """Who the log says it came from; "" where it does not."""
    for record in records:
        for name in ("user", "user_id"):
            user = record.get(name) if isinstance(record, dict) else None
            user = user.get("id") if isinstance(user, dict) else user
            if isinstance(user, str | int) and not isinstance(user, bool) and str(user).strip():
                return str(user).strip()
    return ""
