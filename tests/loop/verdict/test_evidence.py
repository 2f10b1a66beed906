"""E-values: figures computed by hand, and the errors that they promise however often one looks."""

import random
from math import comb

import numpy as np
import pytest

from loop.verdict import evidence
from loop.verdict.evidence import ENOUGH


def drops(gained: int, lost: int, same: int) -> list[float]:
    return [-1.0] * gained + [1.0] * lost + [0.0] * same


def crossings(
    chances: tuple[float, float], kind: str, margin: float, *, looks: int, batch: int, runs: int = 2000
) -> float:
    """Return the share of runs whose E-value reaches 20 at one of these looks, a batch of scenarios apart.

    Args:
        chances: Probability that a scenario is lost, and that it is gained.
        kind: A function of `evidence`.
        margin: Its margin.
        looks: Number of looks.
        batch: Number of scenarios between two looks.
        runs: Number of runs.
    """
    rng, crossed = np.random.default_rng(11), np.zeros(runs, dtype=bool)
    lost, gained = (np.zeros(runs, dtype=int) for _ in range(2))
    known: dict[tuple[int, int, int], bool] = {}
    for look in range(1, looks + 1):
        turned = rng.multinomial(batch, [*chances, 1 - sum(chances)], size=runs)
        lost, gained = lost + turned[:, 0], gained + turned[:, 1]
        for run in np.flatnonzero(~crossed):
            counts = (int(gained[run]), int(lost[run]), look * batch - int(gained[run] + lost[run]))
            if counts not in known:
                value = getattr(evidence, kind)(drops(*counts), *((margin,) if margin else ()))
                known[counts] = value >= ENOUGH
            crossed[run] = known[counts]
    return float(crossed.mean())


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize("gained, lost", [(0, 0), (3, 0), (7, 0), (6, 2), (2, 6), (20, 20), (0, 9)])
def test_the_evidence_of_a_rise_is_the_integral_of_the_sign_test(gained: int, lost: int) -> None:
    """The integral over theta in [1/2, 1] of 2 (2 theta)^b (2 (1 - theta))^c, term by term: the binomial of
    (1 + x)^b (1 - x)^c over x in [0, 1]."""
    exact = sum(
        comb(gained, i) * comb(lost, j) * (-1) ** j / (i + j + 1)
        for i in range(gained + 1)
        for j in range(lost + 1)
    )
    assert evidence.improved(drops(gained, lost, 5)) == pytest.approx(exact, rel=0.02)


def test_no_scenario_is_no_evidence() -> None:
    assert [f([]) for f in (evidence.improved, evidence.fell)] == pytest.approx([1, 1])
    assert [f([], 0.05) for f in (evidence.held, evidence.worse)] == pytest.approx([1, 1])


def test_seven_scenarios_gained_show_a_rise_and_six_do_not() -> None:
    assert evidence.improved(drops(6, 0, 0)) < ENOUGH < evidence.improved(drops(7, 0, 0))


def test_a_guard_that_nothing_happens_to_is_held_after_78_scenarios_at_5_points() -> None:
    assert evidence.least_scenarios(0.05) == 78
    assert evidence.held(drops(0, 0, 77), 0.05) < ENOUGH <= evidence.held(drops(0, 0, 78), 0.05)


def test_the_largest_drop_is_the_smallest_margin_that_is_held() -> None:
    for counts in ((0, 0, 60), (2, 3, 95), (1, 6, 93), (0, 20, 10)):
        bound = evidence.largest_drop(drops(*counts))
        assert (
            evidence.held(drops(*counts), bound + 1e-3)
            >= ENOUGH
            > evidence.held(drops(*counts), bound - 1e-3)
        )


def test_answers_to_one_scenario_count_as_their_mean() -> None:
    """Two answers of which one turned are half a turn, and less evidence than two scenarios that turned."""
    half = evidence.improved([-0.5] * 10)
    assert half < evidence.improved(drops(5, 0, 5)) * 1.5 and half < evidence.improved(drops(10, 0, 0)) / 10


def test_the_mean_of_the_targets_says_that_some_target_improved() -> None:
    assert evidence.combined([60.0, 0.5, 0.5]) > ENOUGH > evidence.combined([50.0, 0.5, 0.5])
    assert evidence.combined([]) == 0


@pytest.mark.parametrize(
    "values, names",
    [
        ({"a": 19.0}, []),
        ({"a": 20.0}, ["a"]),
        ({"a": 39.0, "b": 1.0}, []),
        ({"a": 40.0, "b": 1.0}, ["a"]),
        ({"a": 20.0, "b": 20.0}, ["a", "b"]),
        ({"a": 90.0, "b": 25.0, "c": 31.0, "d": 1.0}, ["a"]),
        ({"a": 90.0, "b": 27.0, "c": 31.0, "d": 1.0}, ["a", "b", "c"]),
    ],
)
def test_which_targets_improved_follows_from_the_ranks_of_their_evidence(
    values: dict[str, float], names: list[str]
) -> None:
    """Of K E-values the k-th largest must be at least 20 K / k: of four, 80, 40, 26.7 and 20."""
    assert evidence.improved_among(values) == names


def test_few_scenarios_have_a_wide_margin_that_follows_from_their_number_alone() -> None:
    margins = [evidence.shown_by(count, 4) for count in (12, 26, 104, 400)]
    assert margins == sorted(margins, reverse=True)
    assert margins[0] > 0.3 and 0.10 < margins[2] < 0.15 and 0.045 < margins[3] < 0.06


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("turning", [0.02, 0.10])
def test_a_null_walk_shows_a_rise_in_at_most_one_run_of_20(turning: float) -> None:
    assert crossings((turning, turning), "improved", 0, looks=10, batch=20, runs=10_000) <= 0.05


@pytest.mark.parametrize("lost, gained", [(0.05, 0.0), (0.12, 0.07)])
def test_a_guard_that_falls_by_its_margin_is_held_in_at_most_one_run_of_20(
    lost: float, gained: float
) -> None:
    assert crossings((lost, gained), "held", 0.05, looks=12, batch=32) <= 0.05


def test_a_guard_that_falls_by_its_margin_is_called_worse_in_at_most_one_run_of_20() -> None:
    assert crossings((0.08, 0.03), "worse", 0.05, looks=12, batch=32) <= 0.05


@pytest.mark.parametrize("looks, batch, guards", [(1, 26, 3), (4, 26, 4), (10, 40, 4), (10, 40, 8)])
def test_guards_that_did_not_change_are_held_together_in_19_runs_of_20(
    looks: int, batch: int, guards: int
) -> None:
    margin = evidence.shown_by(looks * batch, guards)
    held = crossings((0.02, 0.02), "held", margin, looks=looks, batch=batch)
    assert held**guards >= 0.95


# ---------------------------------------------------------------- properties


def test_the_order_of_scenarios_does_not_matter_to_the_last_bit() -> None:
    rng = random.Random(3)
    for _ in range(200):
        some = [rng.choice((-1.0, -0.5, 0.0, 0.25, 1.0)) for _ in range(rng.randrange(1, 90))]
        other = rng.sample(some, len(some))
        assert evidence.improved(some) == evidence.improved(other)
        assert evidence.held(some, 0.05) == evidence.held(other, 0.05)
        assert evidence.worse(some, 0.05) == evidence.worse(other, 0.05)


def test_a_pass_turned_into_a_failure_never_helps() -> None:
    rng = random.Random(4)
    for _ in range(500):
        some = [rng.choice((-1.0, 0.0, 0.0)) for _ in range(rng.randrange(1, 90))]
        fewer = list(some)
        fewer[rng.randrange(len(some))] += 1.0
        assert evidence.improved(fewer) <= evidence.improved(some)
        assert evidence.held(fewer, 0.05) <= evidence.held(some, 0.05)
        assert evidence.worse(fewer, 0.05) >= evidence.worse(some, 0.05)
        assert evidence.futile(fewer, 0.10) >= evidence.futile(some, 0.10)
