"""Results of the commands on lessons."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Quote:
    """A complaint in its own words, with its place."""

    source: str
    path: str
    line: int
    words: str
    answer: str
    """The answer that it is about."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """An estimate of what a night that teaches a proposal costs."""

    tokens: int
    minutes: float | None
    """By the pace of earlier nights; None if there was none."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A proposed behaviour, and what it rests on."""

    number: int
    state: str
    """open, later, accepted, rejected or merged."""
    condition: str
    do: str
    judge: str
    """How answers would be judged; says so if they cannot be."""
    judged: bool
    """Whether answers can be judged, so that it can be accepted."""
    check: str
    """The check of the catalogue; "" if none fits."""
    parameters: dict[str, Any] = field(default_factory=dict)
    counter: str
    """When it would not hold, and what would hold then; "" if nobody has written that yet."""
    sure: float
    """0 to 1."""
    conversations: int
    people: int
    cost: Cost | None
    contradicts: list[str]
    """Behaviours and other proposals that ask for the opposite, each with the number of people behind it."""
    taught: list[str]
    """Behaviours that teach this rule already."""
    behaviour: str | None
    """The behaviour that it became."""
    reason: str
    """Why it was rejected."""
    quotes: list[Quote]
    draft: str
    """The behaviour file that accepting it writes; "" if there is none."""


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """Proposals, those first that are most sure."""

    lessons: list[Lesson]
    waiting: int
    """Open proposals that rest on fewer conversations than `lessons.conversations`, and are not listed."""


@dataclass(frozen=True, kw_only=True)
class Decided:
    """A decision on a proposal."""

    number: int
    state: str
    behaviour: str | None = None
    file: str | None = None
    """The behaviour file that was written."""
    lessons: int = 0
    """Number of complaints that the next night learns from."""
