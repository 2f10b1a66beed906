"""The course of a verdict's evidence: from the ledger's tests alone, and true of what it says."""

import pytest

from loop.verdict import evidence
from loop.verdict.behaviours import compare
from loop.verdict.claims import Claim, Paired
from loop.verdict.course import Course, courses
from loop.verdict.evidence import ENOUGH


def course_of(drops: list[int], **claim: object) -> Course:
    """Return the course of scenarios with these drops: 1 lost, -1 gained, 0 passed both times."""
    before = "".join("0" if drop < 0 else "1" for drop in drops)
    after = "".join("0" if drop > 0 else "1" for drop in drops)
    item = Paired(claim=Claim(behaviour="ask", scenarios=400, **claim), before=before, after=after)  # type: ignore[arg-type]
    (course,) = courses([test.as_json() for test in compare([item])])
    return course


def test_the_course_has_the_e_value_after_each_batch() -> None:
    drops = [-1] * 20 + [0] * 20 + [1] + [-1] * 9
    course = course_of(drops, meant=True)
    assert (course.of, course.outcome, course.scenarios) == ("rise", "improved", [32, 50])
    assert course.values == pytest.approx([evidence.improved(drops[:32]), evidence.improved(drops)], rel=1e-3)


def test_the_number_of_turns_of_a_rise_is_the_smallest_that_changes_it() -> None:
    """8 gained of 8 are enough, 7 and one lost are not; 6 gained need one more."""
    assert course_of([-1] * 8, meant=True).turns == 1
    assert course_of([-1] * 6 + [0] * 4, meant=True).turns == 1
    assert course_of([0, 0], meant=True, gated=True).turns is None


def test_the_number_of_turns_of_a_guard_is_the_smallest_that_changes_it() -> None:
    held = course_of([0] * 120)
    assert (held.of, held.outcome) == ("held", "held")
    assert held.turns is not None and held.turns >= 1
    spoilt = [1] * held.turns + [0] * (120 - held.turns)
    assert evidence.held(spoilt, held.margin) < ENOUGH <= evidence.held([*spoilt[1:], 0], held.margin)
    unsure = course_of([1] * 4 + [0] * 116)
    assert unsure.outcome == "unsure" and unsure.turns is not None


def test_a_fall_that_was_meant_has_the_course_of_a_fall() -> None:
    course = course_of([1] * 9, falls=True)
    assert (course.of, course.outcome, course.turns) == ("fall", "unlearnt", 1)


def test_a_test_of_an_older_version_has_no_course() -> None:
    assert courses([{"behaviour": "ask", "outcome": "held", "p": 1.0}, {"perplexity": [1, 1]}]) == []
