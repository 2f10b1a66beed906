"""Which answers are asked for: until a dream has a good and a bad one, or the odds say stop."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from agents.pairs import practice, trial
from agents.pairs.practice import Ask, Caps, Practice
from corpus.behaviour import SHIPPED, load
from corpus.prompts import PLACEMENTS
from store.ledger.placement_trial import PlacementTrial
from store.ledger.records import Attempt, Dream

BEHAVIOURS = load([SHIPPED])
Answers = Callable[[Ask], bool]
"""Whether the answer to an ask passes the judge of the dream's behaviour."""


def dreams(name: str, count: int) -> list[Dream]:
    return [
        Dream(
            id=f"{name}{index:03}", night_id="n1", behaviour=name, temperature=1.0, seed=index, nodes=["e"],
            messages=[{"role": "user", "content": f"{name} {index}"}], source="anna",
        )
        for index in range(count)
    ]  # fmt: skip


def attempt(ask: Ask, passed: bool, finished: bool = True) -> Attempt:
    return Attempt(
        id=f"{ask.dream.id}-{ask.told}-{ask.placement}-{ask.index}", dream_id=ask.dream.id, text="text",
        instructed=ask.told is not None, temperature=1.0, seed=ask.seed, checkpoint_id="c", passed=passed,
        reason="because", told=ask.told, placement=ask.placement, tokens=5, finished=finished,
    )  # fmt: skip


def listening(own: int = 40, counter: int = 0, **more: object) -> Practice:
    return Practice(
        behaviour=BEHAVIOURS["listen"],
        own=dreams("listen", own),
        counter=dreams("push_back", counter),
        caps=Caps(alone=4, told=2),
        **more,  # type: ignore[arg-type]
    )


def run(one: Practice, answers: Answers) -> list[Ask]:
    asked: list[Ask] = []
    while asks := one.next():
        assert len(asks) <= practice.WAVE
        one.add([attempt(ask, answers(ask)) for ask in asks])
        asked += asks
    return asked


def works(place: str) -> Answers:
    """The behaviour is shown only when told in this place; the counter-behaviour until then."""

    def answers(ask: Ask) -> bool:
        if ask.dream.behaviour == "listen":
            return ask.placement == place
        return ask.told != "listen" or ask.placement != place

    return answers


@pytest.mark.parametrize("place", ["system", "end", "hindsight"])
def test_the_placement_that_lifts_is_found_on_the_first_dreams_and_used_for_the_rest(place: str) -> None:
    one = listening()
    asked = run(one, works(place))
    assert one.trial == PlacementTrial(
        night_id="", model="", behaviour="listen", rule=trial.rule_digest(BEHAVIOURS["listen"]),
        placement=place, dreams=12, alone=0, told={**dict.fromkeys(PLACEMENTS, 0), place: 12},
    )  # fmt: skip
    tried = {ask.dream.id for ask in asked if ask.placement not in (None, place)}
    assert tried == {f"listen{index:03}" for index in range(12)}
    later = Counter((ask.dream.id, ask.placement) for ask in asked if ask.dream.id >= "listen012")
    assert later == {(f"listen{i:03}", at): 1 for i in range(12, 40) for at in (None, place)}


def test_a_behaviour_that_the_model_does_not_show_even_when_told_is_asked_for_no_further() -> None:
    one = listening(counter=40)
    asked = run(one, lambda ask: ask.dream.id == "listen004" and ask.told is not None)
    assert not one.lifted and len(asked) == 12 + 12 * 4
    assert all(ask.dream.behaviour == "listen" for ask in asked)
    assert one.trial is not None
    sentence = trial.no_lift(replace(one.trial, night_id="n1"), "take it up")
    assert (
        "does not do it (take it up) even when told: system 1 of 12, end 1 of 12, hindsight 1 of 12"
        in sentence
    )


def test_the_rule_overdone_is_the_bad_answer_to_a_dream_of_the_counter_behaviour() -> None:
    one = listening(counter=40)
    asked = run(one, works("end"))
    counted = Counter((ask.dream.id, ask.told) for ask in asked if ask.dream in one.counter)
    sought = {dream.id for dream in one.counter[: practice.SOUGHT]}
    assert all(counted[dream.id, "listen"] == 1 for dream in one.counter)
    assert all(counted[dream.id, None] == 1 + (dream.id in sought) for dream in one.counter)
    assert {ask.placement for ask in asked if ask.told and ask.dream in one.counter} == {"end"}


def test_a_counter_behaviour_that_fails_by_itself_shows_its_own_failures_first() -> None:
    one = listening(counter=60)
    failing = {dream.id for dream in one.counter if dream.seed % 4 == 0}

    def answers(ask: Ask) -> bool:
        return works("end")(ask) and not (ask.dream.id in failing and ask.told is None and ask.index == 1)

    asked = run(one, answers)
    overdone = {ask.dream.id for ask in asked if ask.told and ask.dream in one.counter}
    most = Counter(ask.dream.id for ask in asked if ask.dream in one.counter and ask.told is None)
    assert overdone == {dream.id for dream in one.counter} - failing
    assert max(most.values()) == one.caps.alone


def test_where_the_rule_is_not_overdone_another_place_is_tried_on_some_dreams_first() -> None:
    one = listening(counter=60)

    def answers(ask: Ask) -> bool:
        if ask.dream.behaviour == "listen":
            return ask.placement == "system"
        return ask.told is None or ask.placement != "hindsight"

    counted = Counter(ask.placement for ask in run(one, answers) if ask.told and ask.dream in one.counter)
    assert counted["system"] == 12 and counted["end"] == 12 and counted["hindsight"] >= 48


def test_a_good_answer_is_asked_for_only_where_the_first_one_failed() -> None:
    one = listening()
    asked = run(one, lambda ask: ask.dream.id.endswith("5") or ask.placement == "system")
    assert {ask.dream.id for ask in asked if ask.told} == {d.id for d in one.own if d.id[-1] != "5"}


def test_a_behaviour_that_hardly_fails_is_asked_about_only_until_that_is_seen() -> None:
    one = listening(own=100, counter=100)
    asked = run(one, lambda ask: True)
    assert len({ask.dream.id for ask in asked if ask.dream in one.own}) <= 12
    assert len({ask.dream.id for ask in asked if ask.dream in one.counter}) <= 2 * 12 * practice.GUARDS


def test_a_dream_that_never_passes_is_given_up_after_the_most_answers() -> None:
    one = listening()
    asked = run(one, lambda ask: ask.placement == "end" and ask.dream.id != "listen030")
    assert Counter((ask.told, ask.placement) for ask in asked if ask.dream.id == "listen030") == {
        (None, None): 1, ("listen", "end"): 2,
    }  # fmt: skip


def test_answers_do_not_depend_on_how_they_are_batched() -> None:
    def answers(ask: Ask) -> bool:
        return ask.seed % 3 == 0 if ask.told is None else ask.seed % 5 > 0

    def in_pieces(size: int) -> list[Ask]:
        one, asked = listening(counter=70), []
        while asks := one.next():
            for start in range(0, len(asks), size):
                one.add([attempt(ask, answers(ask)) for ask in asks[start : start + size]])
            asked += asks
        return asked

    assert in_pieces(1) == in_pieces(7) == in_pieces(1000)
    assert len({(ask.dream.id, ask.seed) for ask in in_pieces(7)}) == len(in_pieces(7))


def known(place: str, passes: int) -> PlacementTrial:
    return PlacementTrial(
        night_id="n0", behaviour="listen", model="m", rule="r", placement=place, dreams=12, alone=0,
        told={place: passes},
    )  # fmt: skip


def test_a_placement_of_an_earlier_night_is_used_without_a_trial() -> None:
    one = listening(known=known("end", 11))
    asked = run(one, works("end"))
    assert one.trial is None and {ask.placement for ask in asked} == {None, "end"}


def test_a_placement_that_works_no_longer_is_measured_again() -> None:
    one = listening(own=64, known=known("end", 11))
    asked = run(one, works("hindsight"))
    assert one.trial is not None and one.trial.placement == "hindsight" and one.lifted
    assert asked[-1].placement == "hindsight"


def test_no_instruction_is_given_where_the_settings_allow_none() -> None:
    one = listening(counter=20)
    one = Practice(behaviour=one.behaviour, own=one.own, counter=one.counter, caps=Caps(alone=3, told=0))
    asked = run(one, lambda ask: ask.index == 1)
    assert all(ask.told is None for ask in asked) and one.lifted and one.trial is None


def test_a_guarded_counter_behaviour_is_dreamt_of_without_its_behaviour() -> None:
    one = Practice(
        behaviour=BEHAVIOURS["listen"], own=[], counter=dreams("push_back", 30), caps=Caps(alone=4, told=2)
    )
    asked = run(one, works("system"))
    assert Counter(ask.told for ask in asked) == {None: 30 + practice.SOUGHT, "listen": 30}


def test_an_answer_that_was_cut_off_is_no_good_one() -> None:
    one = listening()
    while asks := one.next():
        one.add([attempt(ask, ask.placement is not None, finished=ask.placement == "end") for ask in asks])
    assert one.trial is not None and one.trial.told == {"system": 0, "end": 12, "hindsight": 0}


def test_a_trial_on_too_few_dreams_refuses_nothing() -> None:
    one = listening(own=3)
    run(one, lambda ask: False)
    assert one.trial is None and one.lifted


@pytest.mark.parametrize(
    ("dreams_", "alone", "told", "lifted"),
    [
        (12, 0, 1, False),
        (12, 0, 2, True),
        (12, 11, 12, False),
        (4, 0, 2, True),
        (4, 0, 1, False),
        (12, 5, 4, False),
    ],
)
def test_a_lift_is_at_least_a_sixth_of_the_dreams_and_more_than_one(
    dreams_: int, alone: int, told: int, lifted: bool
) -> None:
    assert trial.lifts(dreams_, alone, told) is lifted
