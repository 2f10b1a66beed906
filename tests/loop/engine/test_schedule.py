"""The schedule: values in, a reason against a night or none out."""

from dataclasses import replace
from datetime import time

import pytest

from loop.config import OBSERVING
from loop.engine.schedule import ScheduleFacts, ScheduleRules, why_not, why_wait

DUE = ScheduleFacts(
    clock=time(2, 30),
    paused=False,
    training_enabled=True,
    lessons=5,
    pairs=0,
    since_last_lesson_s=60.0,
    since_first_lesson_s=3600.0,
    idle_s=900.0,
    nights_today=0,
)
RULES = ScheduleRules(
    windows=["01:00-05:30"],
    idle_s=600.0,
    min_lessons=3,
    min_pairs=24,
    settle_s=10.0,
    max_wait_s=48 * 3600.0,
    max_per_day=2,
)


def at(hour: int, minute: int, *windows: str) -> bool:
    """Return whether a night is due at this time of day."""
    return why_not(replace(DUE, clock=time(hour, minute)), replace(RULES, windows=windows)) == ""


def test_a_night_is_due_when_no_rule_forbids_it() -> None:
    assert why_not(DUE, RULES) == ""


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"paused": True}, "paused: `nightschool resume` to go on"),
        ({"training_enabled": False}, OBSERVING),
        ({"lessons": 2}, "2 new lessons, 3 needed"),
        ({"nights_today": 2}, "2 nights within 24 hours, 2 allowed"),
        ({"clock": time(12, 0)}, "outside the sleep windows (01:00-05:30)"),
        ({"since_last_lesson_s": 9.0}, "lessons are still arriving"),
        ({"idle_s": 30.0}, "a user was active 30 s ago, 600 s of rest needed"),
    ],
)
def test_each_rule_that_forbids_a_night_gives_its_own_reason(change: dict[str, object], reason: str) -> None:
    assert why_not(replace(DUE, **change), RULES) == reason  # type: ignore[arg-type]


def test_a_window_begins_with_its_first_minute_and_ends_before_its_last() -> None:
    due = [at(*clock, "01:00-05:30") for clock in ((0, 59), (1, 0), (5, 29), (5, 30))]
    assert due == [False, True, True, False]


def test_a_window_may_pass_midnight() -> None:
    due = [
        at(*clock, "22:30-04:00")
        for clock in ((22, 29), (22, 30), (23, 59), (0, 0), (3, 59), (4, 0), (12, 0))
    ]
    assert due == [False, True, True, True, True, False, False]


def test_the_whole_day_is_a_window_and_several_windows_add_up() -> None:
    assert all(at(hour, minute, "00:00-24:00") for hour in range(24) for minute in (0, 59))
    assert [at(*clock, "01:00-02:00", "13:00-14:00") for clock in ((1, 30), (13, 30), (7, 0))] == [
        True,
        True,
        False,
    ]


def test_without_a_window_no_night_begins_by_itself() -> None:
    assert why_not(DUE, replace(RULES, windows=[])) == "outside the sleep windows (none)"


def test_an_overdue_lesson_is_learnt_although_a_user_is_active_but_only_in_the_window() -> None:
    busy = replace(DUE, idle_s=0.0, since_first_lesson_s=48 * 3600.0)
    assert why_not(busy, RULES) == ""
    assert why_not(replace(busy, since_first_lesson_s=48 * 3600.0 - 1), RULES).startswith("a user was active")
    assert why_not(replace(busy, clock=time(12, 0)), RULES).startswith("outside the sleep windows")


def test_users_need_not_be_idle_unless_configured() -> None:
    assert why_not(replace(DUE, idle_s=0.0), replace(RULES, idle_s=0.0)) == ""


def test_enough_waiting_pairs_make_a_night_due_without_new_lessons() -> None:
    assert why_not(replace(DUE, lessons=0, pairs=24), RULES) == ""
    assert why_not(replace(DUE, lessons=0, pairs=23), RULES) == "0 new lessons, 3 needed"


def test_the_daily_cap_holds_even_for_an_overdue_lesson() -> None:
    waited = replace(DUE, nights_today=2, since_first_lesson_s=1e6)
    assert why_not(waited, RULES) == "2 nights within 24 hours, 2 allowed"


@pytest.mark.parametrize(
    "paused, since_asked_s, yielded_s, why",
    [
        (False, 3600.0, 0.0, ""),
        (False, 9.0, 0.0, "a user was active within 10 s"),
        (False, 10.0, 0.0, ""),
        (False, 0.0, 59.0, "a user was active within 10 s"),
        (False, 0.0, 60.0, ""),
        (True, 3600.0, 60.0, "paused: `nightschool resume` to go on"),
    ],
)
def test_an_update_waits_while_paused_and_for_users_up_to_a_limit(
    paused: bool, since_asked_s: float, yielded_s: float, why: str
) -> None:
    due = why_wait(
        paused=paused, since_asked_s=since_asked_s, yield_s=10.0, yielded_s=yielded_s, max_yield_s=60.0
    )
    assert due == why


def test_an_update_does_not_wait_for_users_unless_configured() -> None:
    assert why_wait(paused=False, since_asked_s=0.0, yield_s=0.0, yielded_s=0.0, max_yield_s=1800.0) == ""
