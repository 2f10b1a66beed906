"""The rules that decide when a night is due and when an update in training waits.

A night is due in a window of the day, with enough lessons, idle users, and fewer nights than a day allows.

Invariant: pure. Windows are compared with the wall clock; waiting times are differences that the caller has
measured. Whenever no night is due, there is a reason that a user understands.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import time

from loop.config import OBSERVING


@dataclass(frozen=True, kw_only=True)
class ScheduleFacts:
    """The facts from which the schedule decides whether a night is due."""

    clock: time
    """Local time of day."""
    paused: bool
    """Whether the user has paused the home."""
    training_enabled: bool
    """Whether the settings allow updates."""
    lessons: int
    """Number of lessons that no night has taken up."""
    pairs: int
    """Number of new pairs that earlier nights left and that teach something."""
    since_last_lesson_s: float
    """Seconds since the newest of these lessons; infinity if there is none."""
    since_first_lesson_s: float
    """Seconds since the oldest of these lessons; 0 if there is none."""
    idle_s: float
    """Seconds since a user was last active."""
    nights_today: int
    """Number of nights in the last 24 hours that had something to learn, however they ended."""


@dataclass(frozen=True, kw_only=True)
class ScheduleRules:
    """The user's rules for when a night may begin."""

    windows: Sequence[str]
    """Times of day in which a night may begin, each as "HH:MM-HH:MM"."""
    idle_s: float
    """Seconds without a user's activity that a night needs."""
    min_lessons: int
    """Number of new lessons that a night needs, unless there are `min_pairs` new pairs."""
    min_pairs: int
    """Number of new pairs that are enough for a night without new lessons."""
    settle_s: float
    """Seconds that must have passed since the newest lesson."""
    max_wait_s: float
    """Age of the oldest lesson, in seconds, from which a night no longer waits for idle users."""
    max_per_day: int
    """Largest number of nights within 24 hours."""


def why_not(facts: ScheduleFacts, rules: ScheduleRules) -> str:
    """Return the reason why no night is due now; "" if one is due."""
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
    """Return the reason why an update should wait before its next training step; "" if it should go on.

    Args:
        paused: Whether the user has paused the home since the update's night began.
        since_asked_s: Seconds since a user was last active.
        yield_s: Seconds that the update waits after a user was active.
        yielded_s: Seconds that the update has waited for users so far.
        max_yield_s: Most seconds that the update waits for users in all.
    """
    if paused:
        return "paused: `nightschool resume` to go on"
    if since_asked_s < yield_s and yielded_s < max_yield_s:
        return f"a user was active within {yield_s:.0f} s"
    return ""


def _within(window: str, clock: time) -> bool:
    """Return whether the time of day is in the window; a window whose end is the earlier passes midnight."""
    begin, end = (_minutes(part) for part in window.split("-"))
    minute = clock.hour * 60 + clock.minute
    return begin <= minute < end if begin <= end else minute >= begin or minute < end


def _minutes(text: str) -> int:
    """Return the minutes since midnight of a time "HH:MM"."""
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)
