"""Tokens are counted for the piece of work that asked for them."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from agents.model import meter
from agents.model.client import ModelClient, Prompt


def test_tokens_count_for_the_innermost_block_and_outside_any_for_none() -> None:
    meter.count(generated=1)
    with meter.metered() as outer:
        meter.count(generated=2, read=3)
        with meter.metered() as inner:
            meter.count(generated=40)
        assert meter.generated() == 2
    assert (outer.facts(), inner.facts()) == ({"tokens": 2, "tokens_read": 3}, {"tokens": 40})
    assert meter.generated() == 0 and meter.Meter().facts() == {}


def test_tasks_of_a_block_count_for_it_and_tasks_beside_it_do_not() -> None:
    async def add(tokens: int) -> None:
        meter.count(generated=tokens)

    async def work(seen: list[int]) -> None:
        with meter.metered() as mine:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(add, 5)
        seen.append(mine.generated)

    async def both() -> list[int]:
        seen: list[int] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work, seen)
            tasks.start_soon(add, 100)
        return seen

    assert anyio.run(both) == [5]


def test_the_tokens_of_every_answer_are_counted(
    shipped: Callable[[Callable[[ModelClient], Awaitable[Any]]], Any],
) -> None:
    asked = [{"role": "user", "content": "We will wax the tile."}]

    async def ask(model: ModelClient) -> tuple[int, int]:
        prompts = [Prompt(messages=asked, seed=seed, temperature=1.0, max_tokens=9) for seed in range(3)]
        with meter.metered() as spent:
            replies = [*await model.batch_chat(prompts), await model.chat(asked, seed=1, max_tokens=9)]
        return spent.generated, sum(reply.tokens for reply in replies)

    counted, tokens = shipped(ask)
    assert counted == tokens and 4 * 2 < tokens <= 4 * 9
