"""What the formats have in common: text in parts, roles, times, ratings, users.

Invariant: total functions. What cannot be understood is None, never a guess and never an exception.
Knows no format.
"""

import json
import math
from datetime import UTC, datetime
from typing import Any

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip
"""What the formats call a speaker, and what we do."""

LIKED = {"up", "thumbs_up", "thumbsup", "positive", "good", "like", "liked", "upvote", "helpful", "👍", "+1"}
DISLIKED = {
    "down", "thumbs_down", "thumbsdown", "negative", "bad", "dislike", "disliked", "downvote", "unhelpful", "👎", "-1",
}  # fmt: skip

MOST_STARS = 5
"""Numbers from 2 to 5 are read as stars of five; -1 to 1 as they are."""

_WORDLESS = ("image", "image_url", "input_image", "audio", "input_audio", "file", "document", "video")


def as_role(name: Any) -> str | None:
    """Our word for a speaker."""
    return ROLES.get(name.lower()) if isinstance(name, str) else None


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
    return f"[{kind}]" if kind in _WORDLESS else None


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
        return _rating_word(value.strip().lower().replace(" ", "_").replace("-", "_", value.count("-") - 1))
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    if -1 <= value <= 1:
        return float(value)
    return _stars(value, MOST_STARS) if 1 < value <= MOST_STARS else None


def _rating_word(word: str) -> float | None:
    """A rating in words or as a fraction."""
    if word in LIKED or word in DISLIKED:
        return 1.0 if word in LIKED else -1.0
    got, slash, most = word.partition("/")
    try:
        return _stars(float(got), float(most)) if slash else as_rating(float(word))
    except ValueError:
        return None


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
