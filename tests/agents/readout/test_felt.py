"""What readings say of an episode, beside the feelings that its words show."""

import pytest

from agents.readout.felt import FULL, MOST, felt, refelt

CONCEPTS = ("calm", "cross", "glad", "sad", "shy")


def test_only_what_is_far_over_the_usual_is_felt_the_strongest_turn_counts_and_the_strongest_few_stay() -> (
    None
):
    scores = [[0.0, 2.0, 9.0, 0.9, -9.0], [2.0, 4.0, 1.0, 0.0, 1.6]]
    mean, spread = [0.0] * 4 + [1.0], [1.0] * 4 + [0.25]
    found = felt(scores, CONCEPTS, mean, spread)
    assert found == {"read:glad": 1.0, "read:cross": 4.0 / FULL, "read:shy": 0.6}  # (1.6 - 1) / 0.25 / 4
    assert len(found) == MOST and felt([[0.9] * 5], CONCEPTS, [0.0] * 5, [1.0] * 5) == {}


def test_readings_take_the_place_of_earlier_readings_and_leave_words_alone() -> None:
    known = {"frustrated": 0.6, "read:cross": 0.4}
    assert refelt(known, {"read:glad": 0.5}) == {"frustrated": 0.6, "read:glad": 0.5}
    assert refelt(known, {}) == {"frustrated": 0.6}


@pytest.mark.parametrize("spread", [0.0, 1e-9])
def test_a_concept_that_never_varies_divides_by_nothing(spread: float) -> None:
    assert felt([[1.0]], ("calm",), [1.0], [spread]) == {}
