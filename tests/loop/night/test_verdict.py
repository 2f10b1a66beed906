"""The verdict: figures by hand, and what they decide."""

import random
from itertools import product
from math import inf, nan, sqrt
from types import SimpleNamespace

import numpy as np
import pytest

from loop.night.verdict import Decision, Limits, Paired, decide, drop_bounds, interval, mcnemar


def table(both: int, gained: int, lost: int, neither: int) -> tuple[str, str]:
    """Outcomes before and after, from the four cells of the table."""
    before = "1" * both + "0" * gained + "1" * lost + "0" * neither
    after = "1" * both + "1" * gained + "0" * lost + "0" * neither
    return before, after


def paired(name: str, cells: tuple[int, int, int, int], *, meant: bool = False, gated: bool = True) -> Paired:
    before, after = table(*cells)
    return Paired(behaviour=name, before=before, after=after, meant=meant, gated=gated)


def ruling(*items: Paired, last_round: bool = False, **more: object) -> Decision:
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


def test_the_exact_mcnemar_test_agrees_with_counting_every_way_that_the_coins_fall() -> None:
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


def test_the_interval_without_trials_is_everything() -> None:
    assert interval(0, 0) == (0.0, 1.0)


def test_every_test_is_reported_with_its_figures() -> None:
    (told, *_) = ruling(paired("thorough", (90, 3, 5, 2))).tests
    error = sqrt(9 - 4 / 102) / 102
    assert told == {
        "behaviour": "thorough", "meant": False, "before": 95, "after": 93, "trials": 100,
        "gained": 3, "lost": 5,
        "p": round(mcnemar(3, 5), 6), "drop_at_most": round(2 / 102 + 1.6449 * error, 4), "outcome": "unsure",
    }  # fmt: skip


# ---------------------------------------------------------------- the decision


def test_an_update_that_improves_what_it_meant_to_and_holds_the_rest_is_kept() -> None:
    found = ruling(IMPROVED, HELD)
    assert found.decision == "keep"
    assert found.reasons == ["improved: listen; nothing taught or guarded is worse"]


def test_an_update_that_harms_a_counter_behaviour_is_rolled_back_whatever_it_improved() -> None:
    for last in (False, True):
        found = ruling(IMPROVED, HELD, WORSE, last_round=last)
        assert (found.decision, found.reasons) == ("roll back", ["act fell from 95 to 85 of 100"])


def test_an_update_that_harms_what_it_meant_to_improve_is_rolled_back() -> None:
    assert ruling(IMPROVED, paired("ask", (50, 0, 40, 10), meant=True)).decision == "roll back"


def test_a_drop_that_may_be_chance_asks_for_another_round_and_after_the_last_rolls_back() -> None:
    found = ruling(IMPROVED, UNSURE)
    assert (found.decision, found.reasons) == ("inconclusive", ["thorough may be worse by over 5%"])
    last = ruling(IMPROVED, UNSURE, last_round=True)
    assert (last.decision, last.reasons) == ("roll back", found.reasons)


def test_more_scenarios_settle_what_few_left_open() -> None:
    few, many = paired("thorough", (90, 3, 5, 2)), paired("thorough", (900, 30, 35, 35))
    assert [ruling(IMPROVED, item).decision for item in (few, many)] == ["inconclusive", "keep"]


def test_an_update_that_improves_nothing_beyond_chance_is_not_kept() -> None:
    for cells in ((10, 0, 0, 90), (10, 4, 1, 85)):
        nothing = paired("listen", cells, meant=True)
        assert ruling(nothing, HELD).decision == "inconclusive"
        found = ruling(nothing, HELD, last_round=True)
        assert found.decision == "roll back"
        assert found.reasons == ["nothing that the update meant to improve has improved beyond chance"]


def test_what_improved_without_being_meant_does_not_keep_an_update() -> None:
    assert ruling(paired("direct", (10, 70, 0, 20)), HELD, last_round=True).decision == "roll back"


def test_a_behaviour_that_nobody_has_taught_is_reported_and_decides_nothing() -> None:
    found = ruling(IMPROVED, paired("brief", (0, 0, 60, 40), gated=False))
    assert found.decision == "keep"
    assert [test.get("outcome") for test in found.tests[:2]] == ["improved", "not gated"]


def test_a_wider_margin_lets_a_drop_pass_and_a_narrower_one_does_not() -> None:
    decisions = [
        ruling(IMPROVED, WORSE, limits=Limits(margin=margin)).decision for margin in (0.05, 0.10, 0.20)
    ]
    assert decisions == ["roll back", "roll back", "keep"]


@pytest.mark.parametrize("after, kept", [(5.0, True), (5.5, True), (5.51, False), (inf, False), (nan, False)])
def test_perplexity_may_rise_by_a_tenth_and_must_be_a_number(after: float, kept: bool) -> None:
    found = ruling(IMPROVED, HELD, perplexity=(5.0, after))
    assert found.decision == ("keep" if kept else "roll back")
    assert kept or "perplexity on ordinary text" in found.reasons[0]


@pytest.mark.parametrize("before", [0.0, -1.0, nan])
def test_a_perplexity_before_that_is_no_perplexity_keeps_nothing(before: float) -> None:
    assert ruling(IMPROVED, HELD, perplexity=(before, 5.0)).decision == "roll back"


@pytest.mark.parametrize(
    "moved, kept", [(1.5, True), (-1.5, True), (1.6, False), (-1.6, False), (nan, False)]
)
def test_a_reading_may_drift_either_way_within_its_bound_only(moved: float, kept: bool) -> None:
    found = ruling(IMPROVED, HELD, drift={"calm": 0.0, "guessing": moved})
    assert found.decision == ("keep" if kept else "roll back")
    assert kept or found.reasons[0].startswith("the reading of 'guessing' moved by")


@pytest.mark.parametrize("distance, kept", [(0.0, True), (0.5, True), (0.51, False), (nan, False)])
def test_readings_may_move_together_within_their_bound_only_and_those_that_did_are_named(
    distance: float, kept: bool
) -> None:
    joint = SimpleNamespace(distance=distance, parts={"calm": 0.2, "cross": 0.05, "glad": -0.01})
    found = ruling(IMPROVED, HELD, drift={"calm": 1.0, "cross": -0.6, "glad": 0.1}, joint=joint)
    assert found.decision == ("keep" if kept else "roll back")
    assert {"calm": 0.2, "cross": 0.05, "glad": -0.01} in [test.get("parts") for test in found.tests]
    assert kept or found.reasons[0].startswith("the readings moved together by ")
    assert kept or found.reasons[0].endswith("most by 'calm' +1.0, 'cross' -0.6, 'glad' +0.1")


def test_of_very_many_readings_beyond_the_bound_the_furthest_are_named_and_the_rest_counted() -> None:
    found = ruling(IMPROVED, HELD, drift={f"concept {n}": 2.0 + n for n in range(20)})
    assert (
        found.reasons[0].startswith("the reading of 'concept 19' moved by +21.0") and len(found.reasons) == 9
    )
    assert found.reasons[-1] == "and 12 more readings moved by over 1.5 standard deviations"


def test_every_fault_is_named_not_only_the_first() -> None:
    found = ruling(IMPROVED, WORSE, perplexity=(1.0, 2.0), drift={"calm": 9.0})
    assert [reason.split()[0] for reason in found.reasons] == ["act", "perplexity", "the"]


def test_outcomes_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError):
        ruling(Paired(behaviour="listen", before="10", after="1", meant=True))


def test_no_update_is_kept_without_a_gain_that_was_meant_and_every_counter_behaviour_held() -> None:
    rng, kept = random.Random(9), 0
    for _ in range(2000):
        items = []
        for name in ("a", "b", "c"):
            gained, lost = rng.choice((0, 3, 12, 60)), rng.choice((0, 0, 1, 4, 12))
            cells = (rng.randrange(200), gained, lost, rng.randrange(200))
            meant = rng.random() < 0.5
            items.append(paired(name, cells, meant=meant, gated=meant or rng.random() < 0.7))
        found = ruling(*items, last_round=rng.random() < 0.5)
        shuffled = rng.sample(items, 3)
        assert ruling(*shuffled).decision == ruling(*items).decision
        if found.decision == "keep":
            kept += 1
            outcomes = {str(test["behaviour"]): test["outcome"] for test in found.tests[:3]}
            assert "improved" in outcomes.values()
            for item in items:
                assert outcomes[item.behaviour] in ("improved", "held") or not item.gated
                assert outcomes[item.behaviour] != "improved" or item.meant
    assert kept > 100


# ---------------------------------------------------------------- to be unlearnt


def unlearnt(name: str, cells: tuple[int, int, int, int]) -> Paired:
    before, after = table(*cells)
    return Paired(behaviour=name, before=before, after=after, meant=False, falls=True)


def outcomes(told: Decision) -> dict[object, object]:
    return {test["behaviour"]: test["outcome"] for test in told.tests if "behaviour" in test}


def test_a_behaviour_that_was_to_be_unlearnt_and_fell_is_a_reason_to_keep() -> None:
    told = ruling(unlearnt("brief", (10, 0, 70, 20)), HELD)
    assert told.decision == "keep"
    assert told.reasons == ["unlearnt: brief; nothing else taught or guarded is worse"]
    assert told.tests[0]["falls"] is True and "falls" not in told.tests[1]
    assert ruling(unlearnt("brief", (10, 0, 70, 20)), IMPROVED).decision == "keep"


@pytest.mark.parametrize("lost, gained, falls", [(5, 0, True), (4, 0, False), (5, 1, False), (10, 2, True)])
def test_a_fall_is_tested_exactly_as_a_rise_is_the_other_way_round(
    lost: int, gained: int, falls: bool
) -> None:
    told = ruling(unlearnt("brief", (50, gained, lost, 100 - 50 - gained - lost)), HELD)
    assert outcomes(told)["brief"] == ("unlearnt" if falls else "stays")
    assert told.tests[0]["p"] == round(mcnemar(lost, gained), 6)


def test_a_behaviour_that_was_to_be_unlearnt_and_stays_is_measured_again_and_then_undoes_the_update() -> None:
    stays = unlearnt("brief", (80, 1, 1, 18))
    for more in (HELD, IMPROVED):
        told = ruling(stays, more)
        assert told.decision == "inconclusive"
        assert told.reasons[0] == "brief was to be unlearnt and has not fallen beyond chance"
    assert ruling(stays, IMPROVED, last_round=True).decision == "roll back"


def test_a_behaviour_that_is_gone_already_is_to_hold_there_and_may_not_come_back() -> None:
    gone = unlearnt("brief", (1, 1, 3, 95))
    assert outcomes(ruling(gone, IMPROVED))["brief"] == "held" and ruling(gone, IMPROVED).decision == "keep"
    assert ruling(gone, HELD).decision == "inconclusive"  # nothing was unlearnt
    assert outcomes(ruling(unlearnt("brief", (4, 20, 0, 76)), IMPROVED))["brief"] == "stays"


def test_unlearning_does_not_excuse_what_else_is_lost() -> None:
    told = ruling(unlearnt("brief", (10, 0, 70, 20)), WORSE)
    assert told.decision == "roll back" and told.reasons == ["act fell from 95 to 85 of 100"]


def test_one_that_is_there_already_need_not_rise_when_another_does() -> None:
    there = paired("direct", (90, 1, 1, 8), meant=True)
    assert (
        ruling(there, IMPROVED).decision == "keep" and outcomes(ruling(there, IMPROVED))["direct"] == "held"
    )
    lost = paired("direct", (60, 0, 30, 10), meant=True)
    assert ruling(lost, IMPROVED).decision == "roll back"
