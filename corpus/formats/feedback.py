"""What a log says a person thought of an answer: a rating on the log's own scale, or a better text.

Invariant: a word, a thumb or a fraction such as "4/5" is a rating at once. A bare number is a `score`: 1 is
the best of thumbs and the worst of stars, so the scale is found from all numbers of the file, see `Scale`. A
value that is not understood is a score too, so that it is reported instead of lost. Pure.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from corpus.aliases import Json
from corpus.conversation import Score

LIKED = frozenset(
    "up thumbs_up thumbsup thumbup positive good like liked love loved upvote upvoted helpful great "
    "excellent yes true desirable chosen correct accepted accept satisfied right + "
    "👍 ❤ ♥ ✅ 🎉 💯 🙌 👏 😍 🙂 😀".split()
)
DISLIKED = frozenset(
    "down thumbs_down thumbsdown thumbdown negative bad dislike disliked hate downvote downvoted unhelpful "
    "not_helpful poor terrible no false undesirable rejected incorrect reject unsatisfied wrong - "
    "👎 ❌ 😡 💩 🚫 🙁 😞".split()
)
"""Words and signs of a good and of a bad rating, in lower case, with _ for spaces and hyphens."""

FIELDS = (
    "rating", "feedback", "annotation", "vote", "thumb", "thumbs", "stars", "reaction", "reactions",
    "user_feedback", "userFeedback", "message_feedback", "feedback_rating", "feedbacks", "scores", "score",
    "label",
)  # fmt: skip
"""The fields of a message or a line that may hold a rating."""

_INNER = (
    "rating", "score", "value", "vote", "thumb", "thumbs", "stars", "label", "emoji", "type", "sentiment",
    "name",
)  # fmt: skip
_EDITS = ("edited", "correction", "corrected", "preferred", "edited_text", "editedText")
_ORIGINALS = ("original", "originalContent", "original_content", "original_text", "originalText")
_FLAGS = ("edited", "isEdited", "is_edited")
_BY_PEOPLE = re.compile(r"feedback|user|thumb|rating|vote|human|satisf|like|star|quality", re.IGNORECASE)
_MARKS = re.compile("[\ufe0f\ufe0e\u200d\U0001f3fb-\U0001f3ff]")


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """What a message or a line says about an answer."""

    rating: float | None = None
    """From -1 (bad) to 1 (good); None without one."""
    score: Score | None = None
    """A number whose scale is not known yet, or a text that is no known rating; None without one."""
    edited: str | None = None
    """The text that a person wrote in place of the answer; None without one."""
    original: str | None = None
    """The model's own answer, if the message holds the person's text in its place; else None."""

    def __bool__(self) -> bool:
        return any(part is not None for part in (self.rating, self.score, self.edited, self.original))


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The worst and the best number that the ratings of a log can have."""

    low: float
    high: float

    def rating(self, number: float) -> float | None:
        """Return a number of this scale as a rating, -1 to 1; None if it is not on the scale."""
        if not self.low <= number <= self.high:
            return None
        return 2 * (number - self.low) / (self.high - self.low) - 1


NOTHING = Feedback()
"""Of a record that says nothing of an answer."""

_MAY_HOLD = frozenset((*FIELDS, *_EDITS, *_ORIGINALS, *_FLAGS))
THUMBS, SIGNED = Scale(low=0, high=1), Scale(low=-1, high=1)
_MOST = (1, 5, 10, 100)
"""The best rating of the scales that begin at 0 or 1."""


def scale_of(numbers: Collection[float]) -> Scale | None:
    """Return the scale of a log from all numbers in it that rate; None if they do not show it.

    A single number, however often it occurs, never shows a scale unless it is below 0: 1 may be a thumb or a
    star, 5 the best of five or the middle of ten.
    """
    if not numbers:
        return None
    low, high = min(numbers), max(numbers)
    if low < 0:
        most = next((most for most in _MOST if max(-low, high) <= most), None)
        return Scale(low=-most, high=most) if most else None
    if len(set(numbers)) < 2:
        return None
    most = next((most for most in _MOST if high <= most), None)
    if most is None or set(numbers) == {1, 2}:
        return None
    return Scale(low=0 if low < 1 else 1, high=most)


def asked_scale(text: str) -> Scale | None:
    """Return the scale that a text such as "1..5" or "-1..1" names; None if it names none."""
    match = re.fullmatch(r"\s*(-?\d+(?:\.\d+)?)\s*(?:\.\.|:|to)\s*(-?\d+(?:\.\d+)?)\s*", text)
    if not match or float(match[1]) == float(match[2]):
        return None
    return Scale(low=min(float(match[1]), float(match[2])), high=max(float(match[1]), float(match[2])))


def feedback_of(record: Json, *, fields: Iterable[str] = FIELDS) -> Feedback:
    """Return what a message or a line says about an answer.

    Args:
        record: The message or the line.
        fields: The fields that may hold a rating; the first that holds one counts.
    """
    if _MAY_HOLD.isdisjoint(record):
        return NOTHING
    found: float | Score | None = None
    for field in fields:
        if field in record:
            value = rated(field, record[field])
            found = value if found is None or (isinstance(found, Score) and value is not None) else found
            if isinstance(found, float):
                break
    edited, original = _edit(record)
    return Feedback(
        rating=found if isinstance(found, float) else None,
        score=found if isinstance(found, Score) else None,
        edited=edited,
        original=original,
    )


def rated(field: str, value: Any) -> float | Score | None:
    """Return a rating, -1 to 1, or a score whose scale is not known yet; None if there is neither.

    Args:
        field: The name of the field, by which scales are kept apart.
        value: A thumb, a word, a number, a fraction, or an object or a list with one of these.
    """
    if isinstance(value, bool):
        return 1.0 if value else -1.0
    if isinstance(value, int | float):
        return Score(field=field, value=float(value)) if abs(value) < 1e6 else None
    if isinstance(value, str):
        return _of_word(field, value.strip())
    if isinstance(value, dict):
        inner = [rated(field, value[name]) for name in _INNER if name in value]
    elif isinstance(value, list):
        inner = [rated(field, item) for item in reversed(value) if _by_a_person(item)]
    else:
        return None
    words: list[float | Score] = [item for item in inner if isinstance(item, float)]
    numbers: list[float | Score] = [
        item for item in inner if isinstance(item, Score) and isinstance(item.value, float)
    ]
    found = [*numbers, *words] if isinstance(value, dict) else [*words, *numbers]
    return found[0] if found else None


def _by_a_person(item: Any) -> bool:
    """Return whether an entry of a list of scores is a person's, and not an automatic evaluation's."""
    if not isinstance(item, dict):
        return True
    if str(item.get("source", "")).upper() in ("EVAL", "MODEL", "LLM", "CODE", "HEURISTIC"):
        return False
    name = item.get("name", item.get("key"))
    return not isinstance(name, str) or bool(_BY_PEOPLE.search(name))


def _of_word(field: str, word: str) -> float | Score | None:
    """Return the rating that a word, a number or a fraction gives; a score for any other text."""
    if not word:
        return None
    got, slash, most = word.partition("/")
    try:
        number = float(got)
        if slash:
            return Scale(low=1 if number >= 1 else 0, high=float(most)).rating(number)
        return Score(field=field, value=number) if abs(number) < 1e6 else None
    except (ValueError, ZeroDivisionError):
        folded = re.sub(r"[\s_-]+", "_", _MARKS.sub("", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", word)).lower())
    if folded in LIKED or word in LIKED:
        return 1.0
    if folded in DISLIKED or word in DISLIKED:
        return -1.0
    return Score(field=field, value=word)


def _edit(record: Json) -> tuple[str | None, str | None]:
    """Return the text that a person wrote in place of the answer, and the answer if it stands beside it."""
    flagged = any(record.get(flag) is True for flag in _FLAGS)
    content = record.get("content")
    for name in _ORIGINALS:
        original = record.get(name)
        sure = flagged or name in ("originalContent", "original_content")
        if sure and isinstance(original, str) and original.strip() and isinstance(content, str):
            return (content, original) if content.strip() != original.strip() else (None, None)
    for holder in (record, record.get("feedback")):
        for name in _EDITS:
            if isinstance(holder, dict) and isinstance(holder.get(name), str) and holder[name].strip():
                return str(holder[name]), None
    return None, None
