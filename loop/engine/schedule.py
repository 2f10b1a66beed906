"""When a night is due (windows, enough lessons, idle users, a cap a day), and when its update waits.

Invariant: pure. Windows go by the wall clock, waiting times by differences that the caller measured. A "no"
always has a reason that a user understands.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import time

from loop.config import OBSERVING


@dataclass(frozen=True, kw_only=True)
class ScheduleFacts:
    """The facts that the schedule decides by."""

    clock: time
    """Local time of day."""
    paused: bool
    training_enabled: bool
    lessons: int
    """New lessons that no night has taken up."""
    pairs: int
    """New pairs left by earlier nights."""
    since_last_lesson_s: float
    since_first_lesson_s: float
    idle_s: float
    """Since a user last asked."""
    nights_today: int
    """Nights within 24 hours that had something to learn, however they ended."""


@dataclass(frozen=True, kw_only=True)
class ScheduleRules:
    """The user's rules for when a night may begin."""

    windows: Sequence[str]
    idle_s: float
    min_lessons: int
    min_pairs: int
    settle_s: float
    max_wait_s: float
    max_per_day: int


def why_not(facts: ScheduleFacts, rules: ScheduleRules) -> str:
    """Return why no night is due now; "" if one is."""
    if facts.paused:
        return "paused: `nightschool resume` to go on"
    if not facts.training_enabled:
        return OBSERVING
    if facts.lessons < rules.min_lessons and facts.pairs < rules.min_pairs:
        return f"{facts.lessons} new lessons, {rules.min_lessons} needed"
    if facts.nights_today >= rules.max_per_day:
        return f"{facts.nights_today} nights within 24 hours, {rules.max_per_day} allowed"
    if not any(_within(window, facts.clock) for window in rules.windows):
        return f"outside the sleep windows ({', '.join(rules.windows) or 'none'})"
    if facts.since_last_lesson_s < rules.settle_s:
        return "lessons are still arriving"
    if facts.idle_s < rules.idle_s and facts.since_first_lesson_s < rules.max_wait_s:
        return f"a user was active {facts.idle_s:.0f} s ago, {rules.idle_s:.0f} s of rest needed"
    return ""


def why_wait(
    *, paused: bool, since_asked_s: float, yield_s: float, yielded_s: float, max_yield_s: float
) -> str:
    """Return why an update in training should wait before its next step; "" if it should go on.

    Args:
        paused: Whether the home was paused since its night began.
        since_asked_s: Time since a user last asked.
        yield_s: How long it waits after a user has asked.
        yielded_s: How long it has waited for users already.
        max_yield_s: How long it waits for users in all.
    """
    if paused:
        return "paused: `nightschool resume` to go on"
    if since_asked_s < yield_s and yielded_s < max_yield_s:
        return f"a user was active within {yield_s:.0f} s"
    return ""


def _within(window: str, clock: time) -> bool:
    """Return whether the clock is in the window; one that ends before it begins passes midnight."""
    begin, end = (_minutes(part) for part in window.split("-"))
    minute = clock.hour * 60 + clock.minute
    return begin <= minute < end if begin <= end else minute >= begin or minute < end


def _minutes(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)
