"""The decision on an update: what the evidence has to say of each behaviour for an update to be kept."""

import random
from math import inf, nan
from types import SimpleNamespace

import pytest

from loop.verdict.claims import Claim, Paired, margin_of, scenarios_after
from loop.verdict.decision import Decision, decide
from loop.verdict.evidence import ENOUGH
from loop.verdict.limits import Limits

MANY = 1000
"""More scenarios than any verdict takes."""


def paired(
    name: str, cells: tuple[int, int, int, int], *, meant: bool = False, gated: bool = True, **more: object
) -> Paired:
    """Return outcomes, from four counts: passed both times, gained, lost, failed both times."""
    both, gained, lost, neither = cells
    given = {"scenarios": MANY, "meant": meant, "gated": gated, **more}
    return Paired(
        claim=Claim(behaviour=name, **given),  # type: ignore[arg-type]
        before="1" * both + "0" * gained + "1" * lost + "0" * neither,
        after="1" * both + "1" * gained + "0" * lost + "0" * neither,
    )


def verdict_on(*items: Paired, last_round: bool = False, **more: object) -> Decision:
    given = {"perplexity": (5.0, 5.0), "drift": {"calm": 0.5}, "limits": Limits(), **more}
    return decide(list(items), last_round=last_round, **given)  # type: ignore[arg-type]


IMPROVED = paired("listen", (10, 70, 0, 20), meant=True)
HELD = paired("push_back", (190, 1, 1, 8))
UNSURE = paired("thorough", (90, 3, 5, 2))
WORSE = paired("act", (75, 0, 20, 5))


def test_every_test_is_reported_with_its_figures() -> None:
    (first, *_) = verdict_on(UNSURE).tests
    figures = {name: first.pop(name) for name in ("e", "p", "drop_at_most", "outcomes")}
    assert first == {
        "behaviour": "thorough", "meant": False, "before": 95, "after": 93, "trials": 100,
        "gained": 3, "lost": 5, "outcome": "unsure", "scenarios": 100, "of": MANY, "samples": 1,
        "margin": 0.05, "own_margin": 0.05,
    }  # fmt: skip
    assert figures["outcomes"] == [UNSURE.before, UNSURE.after]
    assert figures["p"] == 1 and 0.05 < figures["drop_at_most"] < 0.15
    assert figures["e"]["held"] < ENOUGH and figures["e"]["worse"] < ENOUGH


# ---------------------------------------------------------------- the decision


def test_an_update_that_improves_its_targets_and_holds_the_rest_is_kept() -> None:
    verdict = verdict_on(IMPROVED, HELD)
    assert verdict.decision == "keep"
    assert verdict.reasons == ["improved: listen; nothing taught or guarded is worse"]


def test_an_update_that_harms_a_counter_behaviour_is_rolled_back_whatever_it_improved() -> None:
    for last in (False, True):
        verdict = verdict_on(IMPROVED, HELD, WORSE, last_round=last)
        assert (verdict.decision, verdict.reasons) == ("roll back", ["act fell from 95 to 75 of 100"])


def test_an_update_that_harms_its_target_is_rolled_back() -> None:
    assert verdict_on(IMPROVED, paired("ask", (50, 0, 40, 10), meant=True)).decision == "roll back"


def test_a_drop_that_may_be_chance_asks_for_another_round_and_after_the_last_rolls_back() -> None:
    verdict = verdict_on(IMPROVED, UNSURE)
    assert (verdict.decision, verdict.reasons) == (
        "inconclusive",
        ["thorough may be worse by over 5%, after 100 scenarios"],
    )
    last = verdict_on(IMPROVED, UNSURE, last_round=True)
    assert (last.decision, last.reasons) == ("roll back", verdict.reasons)


def test_more_scenarios_decide_an_inconclusive_verdict() -> None:
    few, many = paired("thorough", (90, 3, 5, 2)), paired("thorough", (900, 30, 35, 35))
    assert [verdict_on(IMPROVED, item).decision for item in (few, many)] == ["inconclusive", "keep"]


def test_an_update_that_improves_nothing_beyond_chance_is_not_kept() -> None:
    reason = "nothing that the update meant to improve has improved beyond chance"
    for cells in ((10, 0, 0, 20), (10, 4, 1, 35)):
        nothing = paired("listen", cells, meant=True)
        assert verdict_on(nothing, HELD).decision == "inconclusive"
        verdict = verdict_on(nothing, HELD, last_round=True)
        assert (verdict.decision, verdict.reasons[-1]) == ("roll back", reason)


def test_an_update_whose_targets_cannot_rise_any_more_is_rolled_back_before_the_last_round() -> None:
    verdict = verdict_on(paired("listen", (10, 0, 0, 90), meant=True), HELD)
    assert verdict.decision == "roll back"
    assert verdict.reasons[-1].endswith("improved beyond chance: a rise of 10% or more is excluded")


def test_an_improvement_outside_the_targets_does_not_keep_an_update() -> None:
    assert verdict_on(paired("direct", (10, 70, 0, 20)), HELD, last_round=True).decision == "roll back"


def test_an_untaught_behaviour_is_reported_and_decides_nothing() -> None:
    verdict = verdict_on(IMPROVED, HELD, paired("brief", (0, 0, 60, 40), gated=False))
    assert verdict.decision == "keep"
    assert [test.get("outcome") for test in verdict.tests[:3]] == ["improved", "held", "not gated"]
    assert verdict.reasons[1] == "brief, which nobody has taught yet, went from 60 to 0 of 100"


def test_only_what_the_figures_have_not_answered_is_measured_again() -> None:
    assert verdict_on(IMPROVED, HELD, UNSURE).again == ("thorough",)
    nothing = paired("listen", (10, 0, 0, 20), meant=True)
    assert verdict_on(nothing, HELD).again == ("listen",)
    assert verdict_on(IMPROVED, HELD).again == ()


def test_several_targets_together_show_that_some_target_improved() -> None:
    """7 and 8 gained scenarios are E-values of 31.9 and 56.8: with another of 1, means of 16 and of 29."""
    settled = paired("ask", (190, 1, 1, 8), meant=True)
    assert verdict_on(paired("listen", (0, 8, 0, 8), meant=True), settled, HELD).decision == "keep"
    assert verdict_on(paired("listen", (0, 7, 0, 8), meant=True), settled, HELD).decision == "inconclusive"


def test_a_wider_margin_lets_a_drop_pass_and_a_narrower_one_does_not() -> None:
    decisions = [
        verdict_on(IMPROVED, paired("act", (150, 0, 30, 20), margin=margin)).decision
        for margin in (0.05, 0.10, 0.30)
    ]
    assert decisions == ["roll back", "inconclusive", "keep"]


# ---------------------------------------------------------------- few scenarios


def test_a_guard_with_few_scenarios_has_the_margin_that_they_can_show_and_the_reasons_say_so() -> None:
    """The first night of a real model, with 26 scenarios a side."""
    euro, yes_no = (
        paired("euro", (2, 17, 0, 7), meant=True, scenarios=26),
        paired("yes_no", (3, 22, 0, 1), meant=True, scenarios=26),
    )
    dollar, asked = (
        paired("dollar", (19, 4, 1, 2), scenarios=26),
        paired("open_question", (25, 0, 1, 0), scenarios=26),
    )
    verdict = verdict_on(euro, yes_no, dollar, asked)
    assert verdict.decision == "keep"
    margin = margin_of(asked.claim, 2)
    assert 0.2 < margin < 0.35
    assert verdict.reasons == [
        "improved: euro, yes_no; nothing taught or guarded is worse",
        f"dollar: 26 scenarios can only exclude a fall of {margin:.0%} or more",
        f"open_question: 26 scenarios can only exclude a fall of {margin:.0%} or more",
    ]


def test_a_wide_margin_excuses_no_fall_that_few_scenarios_show() -> None:
    fallen = paired("dollar", (15, 0, 9, 2), scenarios=26)
    verdict = verdict_on(paired("euro", (2, 17, 0, 7), meant=True, scenarios=26), fallen)
    assert (verdict.decision, verdict.reasons) == ("roll back", ["dollar fell from 24 to 15 of 26"])


def test_a_guard_that_stays_undecided_to_its_last_scenario_undoes_the_update_at_once() -> None:
    doubtful = paired("dollar", (18, 1, 6, 1), scenarios=26)
    assert verdict_on(IMPROVED, doubtful, UNSURE).decision == "roll back"


def test_targets_with_too_few_scenarios_are_said_to_be_too_few() -> None:
    verdict = verdict_on(paired("euro", (0, 6, 0, 0), meant=True, scenarios=6), HELD)
    assert verdict.decision == "roll back"
    assert verdict.reasons == [
        "6 scenarios cannot show an improvement, whatever they say: declare more held-out ones"
    ]


def test_several_answers_to_a_scenario_count_once() -> None:
    """12 scenarios with 8 answers each are not 96 scenarios."""
    claim = Claim(behaviour="promise", meant=True, scenarios=12, samples=8)
    half = Paired(claim=claim, before="0" * 96, after="11110000" * 12)
    assert half.drops == (-0.5,) * 12
    (test, *_) = verdict_on(half, HELD).tests
    assert (test["trials"], test["scenarios"], test["outcome"]) == (96, 12, "improved")
    assert test["p"] > 0.002


# ---------------------------------------------------------------- rounds


def test_the_first_round_of_a_guard_can_decide_and_the_last_one_measures_all() -> None:
    guard, target = Claim(behaviour="act", scenarios=400), Claim(behaviour="ask", scenarios=400, meant=True)
    rounds = [
        [scenarios_after(claim, round_, guards=4, rounds=6) for round_ in range(6)]
        for claim in (guard, target)
    ]
    assert rounds == [[96, 160, 256, 384, 400, 400], [32, 64, 96, 160, 256, 400]]
    assert scenarios_after(Claim(behaviour="act", scenarios=26), 0, guards=4, rounds=6) == 26
    assert scenarios_after(guard, 0, guards=4, rounds=1) == 400


# ---------------------------------------------------------------- perplexity and readings


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
    with pytest.raises(ValueError, match="listen: outcomes of unequal length"):
        verdict_on(Paired(claim=Claim(behaviour="listen", scenarios=9, meant=True), before="10", after="1"))


# ---------------------------------------------------------------- properties


def some_night(rng: random.Random) -> list[Paired]:
    """Return a night of three behaviours, of which at least one is a target."""
    items = []
    for place, name in enumerate(("a", "b", "c")):
        gained, lost = rng.choice((0, 3, 12, 60)), rng.choice((0, 0, 1, 4, 12))
        cells = (rng.randrange(60, 200), gained, lost, rng.randrange(60, 200))
        meant = place == 0 or rng.random() < 0.4
        items.append(paired(name, cells, meant=meant, gated=meant or rng.random() < 0.7))
    return items


def test_no_update_is_kept_without_an_improved_target_and_all_counter_behaviours_held() -> None:
    rng, kept = random.Random(9), 0
    for _ in range(80):
        items = some_night(rng)
        verdict = verdict_on(*items, last_round=rng.random() < 0.5)
        assert verdict_on(*rng.sample(items, 3)).decision == verdict_on(*items).decision
        if verdict.decision == "keep":
            kept += 1
            found = outcomes(verdict)
            assert "improved" in found.values()
            for item in items:
                assert found[item.claim.behaviour] in ("improved", "held") or not item.claim.gated
                assert found[item.claim.behaviour] != "improved" or item.claim.meant
    assert kept > 5


def test_a_pass_turned_into_a_failure_never_makes_an_update_one_to_keep() -> None:
    rng, kept = random.Random(10), 0
    for _ in range(60):
        items = some_night(rng)
        place = rng.randrange(3)
        item = items[place]
        one = rng.choice([at for at, outcome in enumerate(item.after) if outcome == "1"])
        spoilt = Paired(
            claim=item.claim, before=item.before, after=f"{item.after[:one]}0{item.after[one + 1 :]}"
        )
        after = [*items[:place], spoilt, *items[place + 1 :]]
        kept += verdict_on(*items).decision == "keep"
        if verdict_on(*items).decision != "keep":
            assert verdict_on(*after).decision != "keep"
    assert kept > 4


def test_the_order_of_the_scenarios_does_not_matter() -> None:
    rng = random.Random(12)
    for _ in range(20):
        items, mixed = some_night(rng), []
        for item in items:
            order = rng.sample(range(len(item.before)), len(item.before))
            before, after = ("".join(side[at] for at in order) for side in (item.before, item.after))
            mixed.append(Paired(claim=item.claim, before=before, after=after))
        first, second = verdict_on(*items), verdict_on(*mixed)
        assert (first.decision, first.reasons) == (second.decision, second.reasons)
        assert [test.get("e") for test in first.tests] == [test.get("e") for test in second.tests]


# ---------------------------------------------------------------- to be unlearnt


def unlearnt(name: str, cells: tuple[int, int, int, int], scenarios: int = MANY) -> Paired:
    return paired(name, cells, falls=True, scenarios=scenarios)


def outcomes(verdict: Decision) -> dict[object, object]:
    return {test["behaviour"]: test["outcome"] for test in verdict.tests if "behaviour" in test}


def test_a_behaviour_to_unlearn_that_fell_is_a_reason_to_keep() -> None:
    verdict = verdict_on(unlearnt("brief", (10, 0, 70, 20)), HELD)
    assert verdict.decision == "keep"
    assert verdict.reasons == ["unlearnt: brief; nothing else taught or guarded is worse"]
    assert verdict.tests[0]["falls"] is True and "falls" not in verdict.tests[1]
    assert verdict_on(unlearnt("brief", (10, 0, 70, 20)), IMPROVED, HELD).decision == "keep"


@pytest.mark.parametrize("lost, gained, falls", [(7, 0, True), (6, 0, False), (8, 2, False), (14, 2, True)])
def test_a_fall_is_tested_as_a_rise_with_the_sides_swapped(lost: int, gained: int, falls: bool) -> None:
    cells = (20, gained, lost, 10)
    verdict = verdict_on(unlearnt("brief", cells), HELD)
    assert outcomes(verdict)["brief"] == ("unlearnt" if falls else "unsure")
    mirrored = verdict_on(paired("brief", (20, lost, gained, 10), meant=True), HELD)
    assert verdict.tests[0]["e"]["improved"] == mirrored.tests[0]["e"]["improved"]


def test_a_behaviour_to_unlearn_that_stays_undoes_the_update() -> None:
    for more in (HELD, IMPROVED):
        young = verdict_on(unlearnt("brief", (20, 1, 1, 4)), more, HELD)
        assert young.decision == "inconclusive"
        assert young.reasons[0] == "brief was to be unlearnt and has not fallen beyond chance"
    assert (
        verdict_on(unlearnt("brief", (20, 1, 1, 4)), IMPROVED, HELD, last_round=True).decision == "roll back"
    )
    stays = unlearnt("brief", (180, 1, 1, 18))
    assert outcomes(verdict_on(stays, HELD))["brief"] == "stays"
    assert verdict_on(stays, IMPROVED, HELD).decision == "roll back"


def test_a_behaviour_that_is_already_unlearnt_may_not_come_back() -> None:
    gone = unlearnt("brief", (1, 1, 3, 95))
    verdict = verdict_on(gone, IMPROVED, HELD)
    assert outcomes(verdict)["brief"] == "held" and verdict.decision == "keep"
    assert verdict_on(gone, HELD).decision == "roll back"  # nothing was unlearnt
    assert outcomes(verdict_on(unlearnt("brief", (4, 20, 0, 76)), IMPROVED))["brief"] == "stays"


def test_unlearning_does_not_excuse_what_else_is_lost() -> None:
    verdict = verdict_on(unlearnt("brief", (10, 0, 70, 20)), WORSE)
    assert verdict.decision == "roll back" and verdict.reasons == ["act fell from 95 to 75 of 100"]


def test_a_target_at_its_maximum_need_not_rise_when_another_does() -> None:
    there = paired("direct", (190, 1, 1, 8), meant=True)
    verdict = verdict_on(there, IMPROVED, HELD)
    assert verdict.decision == "keep" and outcomes(verdict)["direct"] == "held"
    lost = paired("direct", (60, 0, 30, 10), meant=True)
    assert verdict_on(lost, IMPROVED, HELD).decision == "roll back"
