"""The tokens of a night: what measuring costs is set aside, the rest is for dreams and attempts."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from agents.evaluator.measure import Evaluator
from agents.model.answer_limit import AnswerLimit
from corpus.behaviour import SHIPPED, load
from loop.config import NightSettings, Settings, VerdictSettings
from loop.night.budget import is_spent, reason, tokens_left
from loop.night.context import NightContext
from store.ledger.db import Ledger, database_url
from store.nights import history
from store.queue.outcome import note

BEHAVIOURS = load([SHIPPED])
ROUND = 2 * 8 * 10 * 12
"""Before and after, eight behaviours, ten scenarios, a quarter of 48 tokens each."""


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Callable[[int], NightContext]]:
    ledger = Ledger(database_url(tmp_path))
    with ledger.writing() as connection:
        history.add_base(connection, "c" * 64, "0" * 64)
        history.begin_night(connection, seed=1, retry=False)

    def with_limit(tokens: int) -> NightContext:
        settings = Settings(night=NightSettings(max_tokens=tokens), verdict=VerdictSettings(scenarios=10))
        nobody: Any = None
        any_model: Any = SimpleNamespace(model_digest="0" * 64)
        return NightContext(
            ledger=ledger,
            settings=settings,
            behaviours=BEHAVIOURS,
            definitions={},
            store=nobody,
            model=nobody,
            trainer=nobody,
            evaluator=Evaluator(model=nobody, limit=AnswerLimit(tokens=48)),
            monitor=any_model,
        )

    yield with_limit
    ledger.close()


def spend(context: NightContext, kind: str, **body: int) -> None:
    with context.ledger.writing() as connection:
        note(connection, kind, "n1", body)


def test_no_limit_leaves_any_number_of_tokens(context: Callable[[int], NightContext]) -> None:
    assert anyio.run(tokens_left, context(0), "n1") is None
    assert anyio.run(is_spent, context(0), "n1") is False


def test_a_round_of_measuring_and_what_was_spent_are_taken_from_the_limit(
    context: Callable[[int], NightContext],
) -> None:
    night = context(ROUND + 1000)
    assert anyio.run(tokens_left, night, "n1") == 1000
    spend(night, "dream", tokens=300)
    spend(night, "attempt", tokens=600, tokens_read=9000)
    assert anyio.run(tokens_left, night, "n1") == 100
    assert anyio.run(tokens_left, context(ROUND), "n1") == 0
    said = f"night.max_tokens = {ROUND + 1000} left no more for dreams and attempts: 900 were spent"
    assert anyio.run(reason, night, "n1") == f"{said}, and measuring an update takes about {ROUND}"


def test_what_measuring_costs_is_learnt_from_the_measurements(
    context: Callable[[int], NightContext],
) -> None:
    night = context(10_000)
    spend(night, "measure", tokens=200, trials=10)
    assert anyio.run(tokens_left, night, "n1") == 10_000 - 200 - 2 * 8 * 10 * 20
    assert anyio.run(is_spent, night, "n1") is False
    spend(night, "measure", tokens=9_500, trials=475)
    assert anyio.run(is_spent, night, "n1") is True
