"""What a sweep says, on outcomes whose answer is known."""

import random

import pytest

from loop.operations.sweep import BROKEN, LOWERS, NOTHING, RAISES, UNCLEAR, Trial, came_true, judge

STRENGTHS = (-2.0, -1.0, 0.0, 1.0, 2.0)


def trials_at(
    *rates: float, perplexities: tuple[float, ...] = (1.2,) * 5, trials: int = 400, seed: int = 1
) -> list[Trial]:
    """Scenarios, each with its own difficulty: it passes where the rate is above it."""
    rng = random.Random(seed)
    hard = [rng.random() for _ in range(trials)]
    return [
        Trial(strength=strength, outcomes="".join("01"[rate > one] for one in hard), perplexity=perplexity)
        for strength, rate, perplexity in zip(STRENGTHS, rates, perplexities, strict=True)
    ]


@pytest.mark.parametrize(
    ("rates", "verdict"),
    [
        ((0.0, 0.05, 0.1, 0.2, 0.4), RAISES),
        ((0.4, 0.2, 0.1, 0.05, 0.0), LOWERS),
        ((0.1, 0.1, 0.1, 0.1, 0.1), NOTHING),
        ((0.1, 0.1, 0.1, 0.3, 0.1), RAISES),  # too much of it undoes what less of it did
        ((0.4, 0.2, 0.1, 0.2, 0.4), UNCLEAR),
        ((0.5, 0.8, 1.0, 1.0, 1.0), RAISES),  # at the ceiling only the other way shows
    ],
)
def test_a_planted_effect_is_found_and_named(rates: tuple[float, ...], verdict: str) -> None:
    found = judge(trials_at(*rates))
    assert found.verdict == verdict and found.reasons
    assert [row.strength for row in found.rows] == list(STRENGTHS)
    if verdict in (RAISES, LOWERS):
        assert (found.slope > 0) == (verdict == RAISES)


def test_answers_that_differ_by_chance_alone_are_no_effect() -> None:
    said = []
    for seed in range(200):
        rng = random.Random(seed)
        outcomes = ["".join("01"[rng.random() < 0.1] for _ in range(100)) for _ in STRENGTHS]
        rows = [
            Trial(strength=s, outcomes=o, perplexity=1.2) for s, o in zip(STRENGTHS, outcomes, strict=True)
        ]
        said.append(judge(rows).verdict)
    assert said.count(NOTHING) >= 0.95 * len(said)


def test_a_strength_that_broke_the_model_is_told_and_decides_nothing() -> None:
    broken = (1.2, 1.2, 1.2, 1.2, 1.2 * BROKEN + 0.01)
    found = judge(trials_at(0.1, 0.1, 0.1, 0.1, 0.9, perplexities=broken))
    assert found.verdict == NOTHING and found.rows[-1].broken and "+2" in found.reasons[-1]
    assert found.slope == pytest.approx(0.0)
    whole = judge(trials_at(0.1, 0.1, 0.1, 0.1, 0.9, perplexities=(*broken[:-1], 1.2 * BROKEN)))
    assert whole.verdict == RAISES
    unknown = judge(trials_at(0.1, 0.1, 0.1, 0.1, 0.9, perplexities=(*broken[:-1], float("nan"))))
    assert unknown.verdict == NOTHING
    every = judge(trials_at(0.9, 0.9, 0.1, 0.9, 0.9, perplexities=(9.0, 9.0, 1.2, 9.0, 9.0)))
    assert every.verdict == NOTHING and "smaller ones" in every.reasons[0]


def test_the_slope_is_in_rate_per_unit_of_strength() -> None:
    assert judge(trials_at(0.1, 0.2, 0.3, 0.4, 0.5, trials=10_000)).slope == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(
    ("said", "before", "after", "true"),
    [
        (RAISES, "0" * 40, "1" * 20 + "0" * 20, "yes"),
        (LOWERS, "0" * 40, "1" * 20 + "0" * 20, "no"),
        (LOWERS, "1" * 40, "1" * 20 + "0" * 20, "yes"),
        (RAISES, "0" * 40, "1" + "0" * 39, "no"),
        (NOTHING, "0" * 40, "1" + "0" * 39, "yes"),
        (UNCLEAR, "0" * 40, "1" * 40, "no"),
        (RAISES, "", "1" * 40, "open"),
        (RAISES, "0" * 40, "", "open"),
    ],
)
def test_a_prediction_is_held_against_what_training_did(
    said: str, before: str, after: str, true: str
) -> None:
    assert came_true(said, before, after) == true
