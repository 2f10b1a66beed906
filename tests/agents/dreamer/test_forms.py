"""The forms of prompts, and which one a model gets."""

import random
from collections import Counter

import pytest

from agents.dreamer.forms import FORMS, NEEDS_CONTEXT, Asked, Material
from agents.dreamer.plan import DECLARED, DreamOrigin, DreamPlan, draft, draft_recipe, form_of, has_turns
from agents.dreamer.temperature import FailureRate, breadth, foreign
from agents.dreamer.yields import DISCOUNT, TRIAL, Counted, Yields, to_ask
from corpus.aliases import Message
from corpus.behaviour import SHIPPED, load

LISTEN = load([SHIPPED])["listen"]
SEEDS = ("Paint the door.", "Wax the\ntile.", "Oil the old hinge today please.")
TALK: tuple[Message, ...] = (
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": "Good day."},
)
MATERIAL = Material(condition="the user has decided", seeds=SEEDS, context=TALK)


def asked(form: str, material: Material = MATERIAL) -> Asked:
    return FORMS[form](material, random.Random(1))


def test_a_list_has_each_request_on_one_line_and_stops_at_the_end_of_the_next() -> None:
    found = asked("list")
    assert found.text == (
        "A list of messages in which the user has decided:\n"
        "- Paint the door.\n- Wax the tile.\n- Oil the old hinge today please.\n-"
    )
    assert found.stop == ("\n",) and found.request(" Burn the map.") == "Burn the map."


def test_the_next_turn_is_opened_after_both_sides_in_turn() -> None:
    found = asked("next_turn")
    assert [m["role"] for m in found.messages] == ["user", "assistant"] * 3
    assert [m["content"] for m in found.messages[::2]] == list(SEEDS)
    assert found.opens == "user" and found.text is None


def test_a_turn_in_context_follows_the_true_context_and_keeps_its_system_prompt_first() -> None:
    found = asked("in_context")
    assert found.messages[0] == TALK[0] and found.messages[-2:] == TALK[1:] and found.opens == "user"
    assert [m["content"] for m in found.messages[1:-2:2]] == list(SEEDS[1:])


@pytest.mark.parametrize("seed", range(20))
def test_an_ending_is_written_for_the_start_of_a_real_request(seed: int) -> None:
    first = SEEDS[2]
    material = Material(condition="the user has decided", seeds=(first, *SEEDS[:2]))
    found = FORMS["ending"](material, random.Random(seed))
    assert found.text is not None and found.text.endswith(f"\n- {found.start}")
    assert first.startswith(found.start) and 2 <= len(found.start.split()) <= 3 and first not in found.text
    assert found.request(" gate, now.") == f"{found.start} gate, now."
    assert found.request(", now.") == f"{found.start}, now."


def test_signs_around_a_whole_request_are_no_part_of_it() -> None:
    for text in ('"Paint it."', " \u201cPaint it.\u201d\n", "**Paint it.**"[1:-1]):
        assert asked("list").request(text) == "Paint it."
    assert asked("list").request('Say "now".') == 'Say "now".'


# ---------------------------------------------------------------- drafts


def plan(failed: float = 0.0, passed: float = 0.0, context: tuple[Message, ...] = ()) -> DreamPlan:
    episodes = [
        DreamOrigin(text=f"Paint the {thing} now.", nodes=(f"e{thing}",), source="anna", context=context)
        for thing in ("door", "gate", "wall")
    ]
    examples = [
        DreamOrigin(text=f"Send the {thing} to my aunt.", nodes=("b",), source=DECLARED)
        for thing in ("lamp", "ring", "book", "vase", "drum", "sock", "bell")
    ]
    rate = FailureRate(failed=failed, passed=passed, temperature=0.9)
    return DreamPlan(behaviour=LISTEN, count=10, rate=rate, episodes=episodes, examples=examples, hardest=[])


def test_a_draft_is_the_same_for_the_same_seed_and_names_all_requests_that_it_shows() -> None:
    for form in ("list", "next_turn", "ending"):
        first, again = draft(plan(), form, 7, 48), draft(plan(), form, 7, 48)
        assert first == again and first.form == form
        shown = first.prompt.text or " ".join(m["content"] for m in first.prompt.messages)
        assert all(origin.text in shown for origin in first.origins[form == "ending" :])
        assert (first.prompt.temperature, first.prompt.min_p) == (foreign(0.9), 0.1)


def test_a_behaviour_that_always_fails_gets_broad_prompts_and_one_that_holds_gets_close_ones() -> None:
    broad = [draft(plan(failed=1e6), "list", seed, 48) for seed in range(40)]
    close = [draft(plan(passed=1e6), "list", seed, 48) for seed in range(40)]
    assert {len(one.origins) for one in broad} == {breadth(1.0)} == {6}
    assert {len(one.origins) for one in close} == {breadth(0.0)} == {3}

    def alike(one: object) -> float:
        sources = Counter(origin.source for origin in one.origins)  # type: ignore[attr-defined]
        return max(sources.values()) / sources.total()

    assert sum(map(alike, close)) / 40 > sum(map(alike, broad)) / 40


def test_the_temperature_of_another_model_stays_between_0_7_and_1() -> None:
    assert [foreign(t) for t in (0.0, 0.7, 1.15, 9.0)] == [0.7, 0.7, 1.0, 1.0]
    assert foreign(0.7) < foreign(0.9) < foreign(1.1)


def test_a_dream_keeps_its_true_context_or_the_system_prompt_alone() -> None:
    contexts = Counter(
        len(one.context)
        for seed in range(200)
        if (one := draft(plan(context=TALK), "list", seed, 48)).origins[0].source == "anna"
    )
    assert contexts.keys() == {len(TALK), 1} and min(contexts.values()) > 10
    inside = draft(plan(context=TALK), "in_context", 3, 48)
    assert inside.context == TALK and has_turns(inside.origins[0])
    assert draft_recipe(plan(context=TALK), 3, 48).context == TALK[:1]  # its recipe has single requests


def test_dreams_in_context_are_written_only_where_that_yields() -> None:
    told = plan(context=TALK)
    good = [form_of("list", {"list": 0.8, "in_context": 0.5}, told, seed) for seed in range(100)]
    assert set(good) == {"list", "in_context"} and NEEDS_CONTEXT == {"in_context"}
    poor = [form_of("list", {"list": 0.8, "in_context": 0.3}, told, seed) for seed in range(100)]
    assert set(poor) == {"list"}
    assert {form_of("list", {"list": 0.8, "in_context": 0.8}, plan(), seed) for seed in range(20)} == {"list"}


# ---------------------------------------------------------------- the choice of a form

NAMES = ("list", "next_turn", "ending")


def count(form: str, written: int, used: int, *, night: int = 1, behaviour: str = "a") -> Counted:
    return Counted(night=night, behaviour=behaviour, form=form, written=written, used=used)


def test_a_new_model_has_each_form_tried_and_then_gets_the_one_that_yields_most() -> None:
    empty = Yields()
    assert empty.trials(NAMES, "a", 1) == dict.fromkeys(NAMES, TRIAL)
    tried = empty.plus([count("list", 8, 4), count("next_turn", 8, 3), count("ending", 8, 7)])
    assert tried.trials(NAMES, "a", 1) == {} and tried.best(NAMES, "a") == "ending"
    assert tried.trials(NAMES, "b", 2) == {} and tried.best(NAMES, "b") == "ending"


def test_a_behaviour_of_its_own_kind_gets_its_own_form() -> None:
    known = Yields(
        counts=(count("list", 8, 4), count("ending", 8, 6), count("ending", 30, 3, behaviour="b"),
                count("list", 20, 15, behaviour="b"))
    )  # fmt: skip
    assert known.best(NAMES[::2], "b") == "list" and known.best(NAMES[::2], "a") == "ending"


def test_the_forms_are_compared_again_when_the_yield_has_fallen() -> None:
    before = [count(form, 8, 4) for form in ("list", "next_turn")] + [count("ending", 40, 34)]
    known = Yields(counts=tuple(before))
    still = known.plus([count("ending", 10, 6, night=2)])
    assert still.trials(NAMES, "a", 2) == {}
    fallen = known.plus([count("ending", 10, 2, night=2)])
    assert fallen.trials(NAMES, "a", 2) == {"list": TRIAL, "next_turn": TRIAL}
    again = fallen.plus([count("list", 8, 7, night=2), count("next_turn", 8, 1, night=2)])
    assert again.trials(NAMES, "a", 2) == {} and again.best(NAMES, "a") == "list"


def test_counts_of_earlier_nights_weigh_less() -> None:
    old = Yields(counts=(count("list", 100, 0), count("list", 100, 100, night=2)))
    overall = (0.75 + 100) / (1 + 100 + DISCOUNT * 100)
    assert old.rate("list", "a") == pytest.approx((4 * overall + 100) / (4 + 150))


@pytest.mark.parametrize(
    ("missing", "rate", "expected"), [(10, 0.5, 20), (10, 1.0, 10), (3, 0.0, 15), (1, 0.75, 2)]
)
def test_as_many_requests_are_written_as_are_needed_at_the_yield(
    missing: int, rate: float, expected: int
) -> None:
    assert to_ask(missing, rate) == expected
