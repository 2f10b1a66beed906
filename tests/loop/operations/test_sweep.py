"""The verdict of a sweep, on outcomes with a known answer."""

import random

import pytest

from loop.operations.sweep import BROKEN, LOWERS, NOTHING, RAISES, UNCLEAR, Trial, came_true, judge

STRENGTHS = (-2.0, -1.0, 0.0, 1.0, 2.0)


def trials_at(
    *rates: float, perplexities: tuple[float, ...] = (1.2,) * 5, trials: int = 400, seed: int = 1
) -> list[Trial]:
    """Return scenarios with a difficulty each, which pass where the rate is above it."""
    rng = random.Random(seed)
    hard = [rng.random() for _ in range(trials)]
    return [
        Trial(
            strength=strength,
            outcomes="".join("01"[rate > difficulty] for difficulty in hard),
            perplexity=perplexity,
        )
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
    sweep = judge(trials_at(*rates))
    assert sweep.verdict == verdict and sweep.reasons
    assert [row.strength for row in sweep.rows] == list(STRENGTHS)
    if verdict in (RAISES, LOWERS):
        assert (sweep.slope > 0) == (verdict == RAISES)


def test_differences_by_chance_are_not_an_effect() -> None:
    verdicts = []
    for seed in range(200):
        rng = random.Random(seed)
        outcomes = ["".join("01"[rng.random() < 0.1] for _ in range(100)) for _ in STRENGTHS]
        rows = [
            Trial(strength=s, outcomes=o, perplexity=1.2) for s, o in zip(STRENGTHS, outcomes, strict=True)
        ]
        verdicts.append(judge(rows).verdict)
    assert verdicts.count(NOTHING) >= 0.95 * len(verdicts)


def test_a_strength_that_breaks_the_model_is_reported_and_decides_nothing() -> None:
    broken = (1.2, 1.2, 1.2, 1.2, 1.2 * BROKEN + 0.01)
    sweep = judge(trials_at(0.1, 0.1, 0.1, 0.1, 0.9, perplexities=broken))
    assert sweep.verdict == NOTHING and sweep.rows[-1].broken and "+2" in sweep.reasons[-1]
    assert sweep.slope == pytest.approx(0.0)
    whole = judge(trials_at(0.1, 0.1, 0.1, 0.1, 0.9, perplexities=(*broken[:-1], 1.2 * BROKEN)))
    assert whole.verdict == RAISES
    unknown = judge(trials_at(0.1, 0.1, 0.1, 0.1, 0.9, perplexities=(*broken[:-1], float("nan"))))
    assert unknown.verdict == NOTHING
    every = judge(trials_at(0.9, 0.9, 0.1, 0.9, 0.9, perplexities=(9.0, 9.0, 1.2, 9.0, 9.0)))
    assert every.verdict == NOTHING and "smaller ones" in every.reasons[0]


def test_the_slope_is_in_rate_per_unit_of_strength() -> None:
    assert judge(trials_at(0.1, 0.2, 0.3, 0.4, 0.5, trials=10_000)).slope == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(
    ("predicted", "before", "after", "true"),
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
def test_a_prediction_is_compared_with_the_effect_of_training(
    predicted: str, before: str, after: str, true: str
) -> None:
    assert came_true(predicted, before, after) == true
