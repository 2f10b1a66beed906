"""Readings of a conversation: the text that is read for each turn, and the feelings that the scores show."""

import pytest

from agents.readout.conversations import FULL, MOST, WINDOW, read_feelings, replace_read_feelings, turn_texts
from corpus.concept_sets import NAMES

CONCEPTS = ("calm", "cross", "glad", "sad", "shy")


def test_each_turn_is_read_after_the_turns_before_it_on_one_line() -> None:
    assert turn_texts(["Book the\n bench.", "For when?", " ", "Monday."]) == [
        "Book the bench.",
        "Book the bench. For when?",
        "Book the bench. For when?",
        "Book the bench. For when? Monday.",
    ]


def test_a_later_turn_changes_no_earlier_reading() -> None:
    for window in (1, 2, None):
        assert turn_texts(["a", "b", "c"], window)[:2] == turn_texts(["a", "b"], window)


def test_with_vectors_of_exchanges_a_turn_is_read_with_the_one_before_it() -> None:
    assert turn_texts(["a", "b", "c", "d"], WINDOW["world"]) == ["a", "a b", "b c", "c d"]
    assert set(WINDOW) == set(NAMES)


def test_feelings_are_the_few_concepts_that_the_strongest_turn_shows_far_above_the_usual() -> None:
    scores = [[0.0, 2.0, 9.0, 0.9, -9.0], [2.0, 4.0, 1.0, 0.0, 1.6]]
    mean, deviation = [0.0] * 4 + [1.0], [1.0] * 4 + [0.25]
    feelings = read_feelings(scores, CONCEPTS, mean, deviation)
    assert feelings == {"read:glad": 1.0, "read:cross": 4.0 / FULL, "read:shy": 0.6}  # (1.6 - 1) / 0.25 / 4
    assert len(feelings) == MOST and read_feelings([[0.9] * 5], CONCEPTS, [0.0] * 5, [1.0] * 5) == {}


def test_readings_replace_earlier_readings_and_leave_words_alone() -> None:
    known = {"frustrated": 0.6, "read:cross": 0.4}
    assert replace_read_feelings(known, {"read:glad": 0.5}) == {"frustrated": 0.6, "read:glad": 0.5}
    assert replace_read_feelings(known, {}) == {"frustrated": 0.6}


@pytest.mark.parametrize("deviation", [0.0, 1e-9])
def test_a_concept_that_never_varies_causes_no_division_by_zero(deviation: float) -> None:
    assert read_feelings([[1.0]], ("calm",), [1.0], [deviation]) == {}
