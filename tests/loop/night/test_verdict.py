"""The verdict: figures computed by hand, and the decisions that follow."""

import random
from itertools import product
from math import inf, nan, sqrt
from types import SimpleNamespace

import numpy as np
import pytest

from loop.night.verdict import Decision, Limits, Paired, decide, drop_bounds, interval, mcnemar


def table(both: int, gained: int, lost: int, neither: int) -> tuple[str, str]:
    """Return outcomes before and after, from the four cells of the table."""
    before = "1" * both + "0" * gained + "1" * lost + "0" * neither
    after = "1" * both + "1" * gained + "0" * lost + "0" * neither
    return before, after


def paired(name: str, cells: tuple[int, int, int, int], *, meant: bool = False, gated: bool = True) -> Paired:
    before, after = table(*cells)
    return Paired(behaviour=name, before=before, after=after, meant=meant, gated=gated)


def verdict_on(*items: Paired, last_round: bool = False, **more: object) -> Decision:
    given = {"perplexity": (5.0, 5.0), "drift": {"calm": 0.5}, "limits": Limits(), **more}
    return decide(list(items), last_round=last_round, **given)  # type: ignore[arg-type]


IMPROVED = paired("listen", (10, 70, 0, 20), meant=True)
HELD = paired("push_back", (95, 1, 1, 3))
UNSURE = paired("thorough", (90, 3, 5, 2))
WORSE = paired("act", (85, 0, 10, 5))


# ---------------------------------------------------------------- the figures


@pytest.mark.parametrize(
    "gained, lost, p",
    [(0, 0, 1.0), (5, 0, 1 / 32), (5, 1, 7 / 64), (1, 5, 63 / 64), (6, 2, 37 / 256), (10, 1, 12 / 2048)],
)
def test_the_exact_mcnemar_test_gives_the_figures_computed_by_hand(gained: int, lost: int, p: float) -> None:
    assert mcnemar(gained, lost) == p


def test_the_exact_mcnemar_test_agrees_with_an_enumeration_of_all_coin_throws() -> None:
    for flips in range(11):
        falls = [sum(fall) for fall in product((0, 1), repeat=flips)]
        for gained in range(flips + 1):
            share = sum(heads >= gained for heads in falls) / len(falls)
            assert mcnemar(gained, flips - gained) == pytest.approx(share, rel=1e-12)


def test_the_bounds_of_a_drop_are_those_computed_by_hand() -> None:
    """10 lost and 2 gained of 98: b = 10.5, c = 2.5, n = 100, d = 0.08, se = sqrt(13 - 0.64) / 100 =
    0.035157."""
    low, high = drop_bounds(2, 10, 98)
    assert low == pytest.approx(0.08 - 1.6449 * 0.0351568, abs=1e-6)
    assert high == pytest.approx(0.08 + 1.6449 * 0.0351568, abs=1e-6)
    assert drop_bounds(10, 2, 98) == pytest.approx((-high, -low))


def test_no_measurement_gives_no_bound() -> None:
    low, high = drop_bounds(0, 0, 0)
    assert low == pytest.approx(-1.6449 / 2) and high == pytest.approx(1.6449 / 2)


def test_the_upper_bound_of_a_drop_covers_the_truth_19_times_in_20() -> None:
    """At a true drop of exactly the margin, "held" must be rare: that is what non-inferiority promises."""
    draws = np.random.default_rng(5).multinomial(400, [0.80, 0.04, 0.09, 0.07], size=4000)
    held = [drop_bounds(int(gained), int(lost), 400)[1] < 0.05 for _, gained, lost, _ in draws]
    assert 0.02 < np.mean(held) < 0.06


def test_an_update_that_changes_nothing_is_called_improved_at_most_1_time_in_20() -> None:
    draws = np.random.default_rng(6).multinomial(400, [0.60, 0.08, 0.08, 0.24], size=4000)
    called = [mcnemar(int(gained), int(lost)) < 0.05 for _, gained, lost, _ in draws]
    assert 0.01 < np.mean(called) < 0.055


@pytest.mark.parametrize(
    "passed, trials, low, high", [(8, 10, 0.4902, 0.9433), (0, 20, 0.0, 0.1611), (20, 20, 0.8389, 1)]
)
def test_the_interval_of_a_pass_rate_is_wilsons(passed: int, trials: int, low: float, high: float) -> None:
    assert interval(passed, trials) == pytest.approx((low, high), abs=1e-4)


def test_the_interval_without_trials_is_zero_to_one() -> None:
    assert interval(0, 0) == (0.0, 1.0)


def test_every_test_is_reported_with_its_figures() -> None:
    (first, *_) = verdict_on(paired("thorough", (90, 3, 5, 2))).tests
    error = sqrt(9 - 4 / 102) / 102
    assert first == {
        "behaviour": "thorough", "meant": False, "before": 95, "after": 93, "trials": 100,
        "gained": 3, "lost": 5,
        "p": round(mcnemar(3, 5), 6), "drop_at_most": round(2 / 102 + 1.6449 * error, 4), "outcome": "unsure",
    }  # fmt: skip


# ---------------------------------------------------------------- the decision


def test_an_update_that_improves_its_targets_and_holds_the_rest_is_kept() -> None:
    verdict = verdict_on(IMPROVED, HELD)
    assert verdict.decision == "keep"
    assert verdict.reasons == ["improved: listen; nothing taught or guarded is worse"]


def test_an_update_that_harms_a_counter_behaviour_is_rolled_back_whatever_it_improved() -> None:
    for last in (False, True):
        verdict = verdict_on(IMPROVED, HELD, WORSE, last_round=last)
        assert (verdict.decision, verdict.reasons) == ("roll back", ["act fell from 95 to 85 of 100"])


def test_an_update_that_harms_its_target_is_rolled_back() -> None:
    assert verdict_on(IMPROVED, paired("ask", (50, 0, 40, 10), meant=True)).decision == "roll back"


def test_a_drop_that_may_be_chance_asks_for_another_round_and_after_the_last_rolls_back() -> None:
    verdict = verdict_on(IMPROVED, UNSURE)
    assert (verdict.decision, verdict.reasons) == ("inconclusive", ["thorough may be worse by over 5%"])
    last = verdict_on(IMPROVED, UNSURE, last_round=True)
    assert (last.decision, last.reasons) == ("roll back", verdict.reasons)


def test_more_scenarios_decide_an_inconclusive_verdict() -> None:
    few, many = paired("thorough", (90, 3, 5, 2)), paired("thorough", (900, 30, 35, 35))
    assert [verdict_on(IMPROVED, item).decision for item in (few, many)] == ["inconclusive", "keep"]


def test_an_update_that_improves_nothing_beyond_chance_is_not_kept() -> None:
    for cells in ((10, 0, 0, 90), (10, 4, 1, 85)):
        nothing = paired("listen", cells, meant=True)
        assert verdict_on(nothing, HELD).decision == "inconclusive"
        verdict = verdict_on(nothing, HELD, last_round=True)
        assert verdict.decision == "roll back"
        assert verdict.reasons == ["nothing that the update meant to improve has improved beyond chance"]


def test_an_improvement_outside_the_targets_does_not_keep_an_update() -> None:
    assert verdict_on(paired("direct", (10, 70, 0, 20)), HELD, last_round=True).decision == "roll back"


def test_an_untaught_behaviour_is_reported_and_decides_nothing() -> None:
    verdict = verdict_on(IMPROVED, paired("brief", (0, 0, 60, 40), gated=False))
    assert verdict.decision == "keep"
    assert [test.get("outcome") for test in verdict.tests[:2]] == ["improved", "not gated"]


def test_only_what_the_figures_have_not_answered_is_measured_again() -> None:
    assert verdict_on(IMPROVED, HELD, UNSURE).again == ("thorough",)
    nothing = paired("listen", (10, 0, 0, 90), meant=True)
    assert verdict_on(nothing, HELD).again == ("listen",)
    assert verdict_on(IMPROVED, HELD).again == ()


def test_a_wider_margin_lets_a_drop_pass_and_a_narrower_one_does_not() -> None:
    decisions = [
        verdict_on(IMPROVED, WORSE, limits=Limits(margin=margin)).decision for margin in (0.05, 0.10, 0.20)
    ]
    assert decisions == ["roll back", "roll back", "keep"]


@pytest.mark.parametrize(
    ("margin", "outcome", "decision"),
    [(None, "worse", "roll back"), (0.07, "unsure", "inconclusive"), (0.10, "held", "keep")],
)
def test_a_guard_may_have_a_margin_of_its_own(margin: float | None, outcome: str, decision: str) -> None:
    """6 lost and 1 gained of 100: between 0.4 and 9.4 points fewer."""
    before, after = table(88, 1, 6, 5)
    guard = Paired(behaviour="abilities", before=before, after=after, meant=False, margin=margin)
    verdict = verdict_on(IMPROVED, guard)
    (test,) = [test for test in verdict.tests if test.get("behaviour") == "abilities"]
    assert (test["outcome"], verdict.decision) == (outcome, decision)


@pytest.mark.parametrize(
    "after, passes", [(5.0, True), (5.5, True), (5.51, False), (inf, False), (nan, False)]
)
def test_perplexity_may_rise_by_a_tenth_and_must_be_a_number(after: float, passes: bool) -> None:
    verdict = verdict_on(IMPROVED, HELD, perplexity=(5.0, after))
    assert verdict.decision == ("keep" if passes else "roll back")
    assert passes or "perplexity on ordinary text" in verdict.reasons[0]


@pytest.mark.parametrize("before", [0.0, -1.0, nan])
def test_an_invalid_perplexity_before_the_update_keeps_nothing(before: float) -> None:
    assert verdict_on(IMPROVED, HELD, perplexity=(before, 5.0)).decision == "roll back"


@pytest.mark.parametrize(
    "moved, passes", [(1.5, True), (-1.5, True), (1.6, False), (-1.6, False), (nan, False)]
)
def test_a_reading_may_drift_either_way_within_its_bound_only(moved: float, passes: bool) -> None:
    verdict = verdict_on(IMPROVED, HELD, drift={"calm": 0.0, "guessing": moved})
    assert verdict.decision == ("keep" if passes else "roll back")
    assert passes or verdict.reasons[0].startswith("the reading of 'guessing' moved by")


@pytest.mark.parametrize("distance, passes", [(0.0, True), (0.5, True), (0.51, False), (nan, False)])
def test_readings_may_move_jointly_within_their_bound_only_and_the_moved_ones_are_named(
    distance: float, passes: bool
) -> None:
    joint = SimpleNamespace(distance=distance, parts={"calm": 0.2, "cross": 0.05, "glad": -0.01})
    verdict = verdict_on(IMPROVED, HELD, drift={"calm": 1.0, "cross": -0.6, "glad": 0.1}, joint=joint)
    assert verdict.decision == ("keep" if passes else "roll back")
    assert {"calm": 0.2, "cross": 0.05, "glad": -0.01} in [test.get("parts") for test in verdict.tests]
    assert passes or verdict.reasons[0].startswith("the readings moved together by ")
    assert passes or verdict.reasons[0].endswith("most by 'calm' +1.0, 'cross' -0.6, 'glad' +0.1")


def test_of_many_readings_beyond_the_bound_the_largest_moves_are_named_and_the_others_counted() -> None:
    verdict = verdict_on(IMPROVED, HELD, drift={f"concept {n}": 2.0 + n for n in range(20)})
    assert (
        verdict.reasons[0].startswith("the reading of 'concept 19' moved by +21.0")
        and len(verdict.reasons) == 9
    )
    assert verdict.reasons[-1] == "and 12 more readings moved by over 1.5 standard deviations"


def test_every_fault_is_named_not_only_the_first() -> None:
    verdict = verdict_on(IMPROVED, WORSE, perplexity=(1.0, 2.0), drift={"calm": 9.0})
    assert [reason.split()[0] for reason in verdict.reasons] == ["act", "perplexity", "the"]


def test_outcomes_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError):
        verdict_on(Paired(behaviour="listen", before="10", after="1", meant=True))


def test_no_update_is_kept_without_an_improved_target_and_all_counter_behaviours_held() -> None:
    rng, kept_count = random.Random(9), 0
    for _ in range(2000):
        items = []
        for name in ("a", "b", "c"):
            gained, lost = rng.choice((0, 3, 12, 60)), rng.choice((0, 0, 1, 4, 12))
            cells = (rng.randrange(200), gained, lost, rng.randrange(200))
            meant = rng.random() < 0.5
            items.append(paired(name, cells, meant=meant, gated=meant or rng.random() < 0.7))
        verdict = verdict_on(*items, last_round=rng.random() < 0.5)
        shuffled = rng.sample(items, 3)
        assert verdict_on(*shuffled).decision == verdict_on(*items).decision
        if verdict.decision == "keep":
            kept_count += 1
            outcomes = {str(test["behaviour"]): test["outcome"] for test in verdict.tests[:3]}
            assert "improved" in outcomes.values()
            for item in items:
                assert outcomes[item.behaviour] in ("improved", "held") or not item.gated
                assert outcomes[item.behaviour] != "improved" or item.meant
    assert kept_count > 100


# ---------------------------------------------------------------- to be unlearnt


def unlearnt(name: str, cells: tuple[int, int, int, int]) -> Paired:
    before, after = table(*cells)
    return Paired(behaviour=name, before=before, after=after, meant=False, falls=True)


def outcomes(verdict: Decision) -> dict[object, object]:
    return {test["behaviour"]: test["outcome"] for test in verdict.tests if "behaviour" in test}


def test_a_behaviour_to_unlearn_that_fell_is_a_reason_to_keep() -> None:
    verdict = verdict_on(unlearnt("brief", (10, 0, 70, 20)), HELD)
    assert verdict.decision == "keep"
    assert verdict.reasons == ["unlearnt: brief; nothing else taught or guarded is worse"]
    assert verdict.tests[0]["falls"] is True and "falls" not in verdict.tests[1]
    assert verdict_on(unlearnt("brief", (10, 0, 70, 20)), IMPROVED).decision == "keep"


@pytest.mark.parametrize("lost, gained, falls", [(5, 0, True), (4, 0, False), (5, 1, False), (10, 2, True)])
def test_a_fall_is_tested_as_a_rise_with_the_sides_swapped(lost: int, gained: int, falls: bool) -> None:
    verdict = verdict_on(unlearnt("brief", (50, gained, lost, 100 - 50 - gained - lost)), HELD)
    assert outcomes(verdict)["brief"] == ("unlearnt" if falls else "stays")
    assert verdict.tests[0]["p"] == round(mcnemar(lost, gained), 6)


def test_a_behaviour_to_unlearn_that_stays_is_measured_again_and_then_undoes_the_update() -> None:
    stays = unlearnt("brief", (80, 1, 1, 18))
    for more in (HELD, IMPROVED):
        verdict = verdict_on(stays, more)
        assert verdict.decision == "inconclusive"
        assert verdict.reasons[0] == "brief was to be unlearnt and has not fallen beyond chance"
    assert verdict_on(stays, IMPROVED, last_round=True).decision == "roll back"


def test_a_behaviour_that_is_already_unlearnt_may_not_come_back() -> None:
    gone = unlearnt("brief", (1, 1, 3, 95))
    verdict = verdict_on(gone, IMPROVED)
    assert outcomes(verdict)["brief"] == "held" and verdict.decision == "keep"
    assert verdict_on(gone, HELD).decision == "inconclusive"  # nothing was unlearnt
    assert outcomes(verdict_on(unlearnt("brief", (4, 20, 0, 76)), IMPROVED))["brief"] == "stays"


def test_unlearning_does_not_excuse_what_else_is_lost() -> None:
    verdict = verdict_on(unlearnt("brief", (10, 0, 70, 20)), WORSE)
    assert verdict.decision == "roll back" and verdict.reasons == ["act fell from 95 to 85 of 100"]


def test_a_target_at_its_maximum_need_not_rise_when_another_does() -> None:
    there = paired("direct", (90, 1, 1, 8), meant=True)
    assert (
        verdict_on(there, IMPROVED).decision == "keep"
        and outcomes(verdict_on(there, IMPROVED))["direct"] == "held"
    )
    lost = paired("direct", (60, 0, 30, 10), meant=True)
    assert verdict_on(lost, IMPROVED).decision == "roll back"
