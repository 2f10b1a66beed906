"""Measurements of the shipped model: deterministic, and equal to the judge's decisions."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agents.evaluator.measure import Evaluator
from agents.model.client import ModelClient
from corpus.behaviour import SHIPPED, load

BEHAVIOURS = load([SHIPPED])
Measure = Callable[..., str]


@pytest.fixture
def measure(shipped: Callable[[Callable[[ModelClient], Awaitable[Any]]], Any]) -> Measure:
    def outcomes(
        name: str, *, count: int = 60, first: int = 0, seed: int = 1, reports: list[Any] | None = None
    ) -> str:
        async def report(done: int, total: int) -> None:
            if reports is not None:
                reports.append((done, total))

        async def with_model(model: ModelClient) -> str:
            evaluator = Evaluator(model=model)
            return await evaluator.measure(
                BEHAVIOURS[name], scenarios=range(first, count), most=400, seed=seed, report=report
            )

        return str(shipped(with_model))

    return outcomes


def test_the_same_seed_and_scenarios_give_the_same_outcomes_and_another_seed_gives_others(
    measure: Measure,
) -> None:
    first = measure("act")
    assert len(first) == 60 and set(first) <= {"0", "1"}
    assert measure("act") == first and measure("act", first=30) == first[30:]
    assert measure("act", seed=2) != first


def test_a_base_behaviour_fails_and_its_counter_behaviour_passes(measure: Measure) -> None:
    behaviour, counter = measure("listen"), measure("push_back")
    assert behaviour.count("1") < 20 < 45 < counter.count("1")


def test_progress_is_reported_from_the_start_to_the_end(measure: Measure) -> None:
    reports: list[tuple[int, int]] = []
    measure("listen", count=140, reports=reports)
    assert reports[0] == (0, 140) and reports[-1] == (140, 140) and reports == sorted(reports)
