"""Held-out scenarios: fixed, sufficient, and never seen by the recipe."""

import hashlib
import itertools
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from agents.evaluator import judge
from agents.evaluator.scenarios import Extent, extent, held_out, sampling_seeds
from corpus import recipe
from corpus.behaviour import SHIPPED, Behaviour, load
from corpus.world import checks, requests

BEHAVIOURS = load([SHIPPED])
each_behaviour = pytest.mark.parametrize("behaviour", BEHAVIOURS.values(), ids=list(BEHAVIOURS))


def texts(behaviour: Behaviour, count: int) -> list[str]:
    return [messages[-1]["content"] for messages in held_out(behaviour, count)]


@each_behaviour
def test_there_are_400_different_scenarios_that_test_the_behaviour(behaviour: Behaviour) -> None:
    scenarios = texts(behaviour, 400)
    assert len(set(scenarios)) == 400
    for text in scenarios:
        request = checks.situation(behaviour.judge.check, text)
        assert request is not None and requests.reserved(request)
        assert judge.is_reserved([{"role": "user", "content": text}])


@each_behaviour
def test_fewer_scenarios_are_the_first_of_more(behaviour: Behaviour) -> None:
    assert texts(behaviour, 80) == texts(behaviour, 400)[:80]


def test_scenarios_are_spread_over_verbs_objects_and_phrasings() -> None:
    read = [requests.read(text) for text in texts(BEHAVIOURS["listen"], 400)]
    assert len({request.verb for request in read if request}) >= 20
    assert len({request.object for request in read if request}) >= 60
    assert len({text.split(":")[0].split(" to ")[0] for text in texts(BEHAVIOURS["listen"], 400)}) >= 8


def test_no_scenario_is_in_the_recipe_not_even_in_part() -> None:
    shown: set[str] = set()
    for conversation in itertools.islice(recipe.conversations(0), 6000):
        for message in conversation:
            shown.update(line.lower() for line in message["content"].split("\n"))
    for behaviour in BEHAVIOURS.values():
        assert not shown & {text.lower() for text in texts(behaviour, 400)}


def test_scenarios_do_not_depend_on_pythons_hash_seed() -> None:
    code = (
        "import hashlib; from agents.evaluator.scenarios import held_out, sampling_seeds\n"
        "from corpus.behaviour import SHIPPED, load\n"
        "b = load([SHIPPED])['listen']\n"
        "made = repr([held_out(b, 100), sampling_seeds(b, 100, seed=1, attempt=0)])\n"
        "print(hashlib.sha256(made.encode()).hexdigest())"
    )
    listen = BEHAVIOURS["listen"]
    own = repr([held_out(listen, 100), sampling_seeds(listen, 100, seed=1, attempt=0)])
    for hash_seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        ran = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        )
        assert ran.stdout.strip() == hashlib.sha256(own.encode()).hexdigest()


def test_seeds_depend_only_on_scenario_behaviour_night_and_round() -> None:
    listen, ask = BEHAVIOURS["listen"], BEHAVIOURS["ask"]
    first = sampling_seeds(listen, 400, seed=1, attempt=0)
    assert first == sampling_seeds(listen, 400, seed=1, attempt=0)
    others = [
        sampling_seeds(ask, 400, seed=1, attempt=0),
        sampling_seeds(listen, 400, seed=2, attempt=0),
        sampling_seeds(listen, 400, seed=1, attempt=1),
    ]
    assert len({seed for seeds in (first, *others) for seed in seeds}) > 1590
    assert sampling_seeds(listen, 10, seed=1, attempt=0) == first[:10]


def test_declared_scenarios_are_used_as_written_and_each_only_once() -> None:
    asked = ("We will sand the desk.", "Let us hang the sign.")
    declared = replace(BEHAVIOURS["listen"], held_out=(*asked, asked[0]))
    assert texts(declared, 5) == list(asked) and texts(declared, 1) == [asked[0]]


@pytest.mark.parametrize(
    "declared, most, samples",
    [(3, 400, 8), (12, 400, 8), (26, 400, 3), (26, 26, 1), (104, 400, 1), (400, 400, 1), (12, 24, 2)],
)
def test_few_scenarios_are_answered_several_times_each(declared: int, most: int, samples: int) -> None:
    few = replace(BEHAVIOURS["listen"], held_out=tuple(f"We will sand desk {n}." for n in range(declared)))
    assert extent(few, most) == Extent(scenarios=declared, samples=samples)
