"""When a night is due: windows, enough lessons, idle users, a cap a day; and when its update waits.

Invariant: pure. Windows go by the wall clock, waiting times by differences that the caller measured; "no"
always has a reason that a user understands.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import time

from loop.config import OBSERVING


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What the schedule goes by."""

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
    """Nights within 24 hours that had something to learn, whatever came of them."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the user allows."""

    windows: Sequence[str]
    idle_s: float
    min_lessons: int
    min_pairs: int
    settle_s: float
    max_wait_s: float
    max_per_day: int


def why_not(situation: Situation, rules: Rules) -> str:
    """Why no night is due now; "" when one is."""
    if situation.paused:
        return "paused: `nightschool resume` to go on"
    if not situation.training_enabled:
        return OBSERVING
    if situation.lessons < rules.min_lessons and situation.pairs < rules.min_pairs:
        return f"{situation.lessons} new lessons, {rules.min_lessons} needed"
    if situation.nights_today >= rules.max_per_day:
        return f"{situation.nights_today} nights within 24 hours, {rules.max_per_day} allowed"
    if not any(_within(window, situation.clock) for window in rules.windows):
        return f"outside the sleep windows ({', '.join(rules.windows) or 'none'})"
    if situation.since_last_lesson_s < rules.settle_s:
        return "lessons are still arriving"
    if situation.idle_s < rules.idle_s and situation.since_first_lesson_s < rules.max_wait_s:
        return f"a user was active {situation.idle_s:.0f} s ago, {rules.idle_s:.0f} s of rest needed"
    return ""


def why_wait(
    *, paused: bool, since_asked_s: float, yield_s: float, yielded_s: float, max_yield_s: float
) -> str:
    """Why an update that is being trained should wait before its next step; "" when it should go on.

    paused: the home was paused since its night began. yielded_s: how long it has waited for users already.
    """
    if paused:
        return "paused: `nightschool resume` to go on"
    if since_asked_s < yield_s and yielded_s < max_yield_s:
        return f"a user was active within {yield_s:.0f} s"
    return ""


def _within(window: str, clock: time) -> bool:
    """Whether the clock stands in the window; one that ends before it begins passes midnight."""
    begin, end = (_minutes(part) for part in window.split("-"))
    minute = clock.hour * 60 + clock.minute
    return begin <= minute < end if begin <= end else minute >= begin or minute < end


def _minutes(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)
