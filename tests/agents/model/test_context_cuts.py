"""Conversations cut to a number of tokens, by the served model's own chat template."""

from typing import Any

import pytest

from agents.model.client import ModelClient
from agents.model.context import ContextSettings, Fit, Talk, fit, room
from corpus.aliases import Message

SYSTEM: Message = {"role": "system", "content": "Be brief."}
TOOL = {"type": "function", "function": {"name": "look"}}


def talk(exchanges: int, system: bool = True) -> list[Message]:
    """Return a conversation that ends with a request, after so many exchanges."""
    messages = [SYSTEM] if system else []
    for number in range(exchanges):
        messages.append({"role": "user", "content": f"Where is the plank number {number}?"})
        messages.append({"role": "assistant", "content": "In the lab."})
    return [*messages, {"role": "user", "content": "Paint the plank."}]


def fitted(shipped: Any, talks: list[list[Message]], limits: list[int]) -> list[Fit]:
    async def use(model: ModelClient) -> list[Fit]:
        return await fit(model, [Talk(messages=messages) for messages in talks], limits)

    found: list[Fit] = shipped(use)
    return found


def lengths(shipped: Any, talks: list[list[Message]]) -> list[int]:
    async def use(model: ModelClient) -> list[int]:
        return [len(tokens) for tokens in await model.tokenize(talks)]

    counted: list[int] = shipped(use)
    return counted


@pytest.mark.parametrize("system", [True, False])
def test_as_many_turns_stay_as_the_limit_takes(shipped: Any, system: bool) -> None:
    whole = talk(9, system)
    shorter = [talk(9, system)[: int(system)] + whole[int(system) + 2 * cut :] for cut in range(10)]
    counted = lengths(shipped, shorter)
    limits = [limit + more for limit in counted for more in (0, 1)]
    found = fitted(shipped, [whole] * len(limits), limits)
    assert [one.messages for one in found] == [kept for kept in shorter for _ in (0, 1)]
    assert [one.tokens for one in found] == [count for count in counted for _ in (0, 1)]


def test_a_conversation_that_cannot_be_cut_enough_has_a_reason(shipped: Any) -> None:
    ends = [SYSTEM, talk(0)[-1]]
    (least,) = lengths(shipped, [ends])
    first, second, empty = fitted(shipped, [talk(3), talk(0), [SYSTEM]], [least - 1, least, 1])
    assert first.messages == [] and f"{least} tokens, over the {least - 1} of a context" in first.reason
    assert (second.messages, second.reason) == (ends, "")
    assert empty.reason and fitted(shipped, [], []) == []


def test_a_context_has_at_most_what_the_window_leaves(shipped: Any) -> None:
    async def rooms(model: ModelClient) -> tuple[int, int]:
        small, large = ContextSettings(max_tokens=64), ContextSettings(max_tokens=100_000)
        return await room(model, small, others=100), await room(model, large, others=100)

    assert shipped(rooms) == (64, 412)


def test_tools_count_and_a_template_without_them_takes_the_talk_all_the_same(shipped: Any) -> None:
    async def use(model: ModelClient) -> list[Fit]:
        talks = [Talk(messages=talk(1), tools=[TOOL]), Talk(messages=talk(1))]
        return await fit(model, talks, [500, 500])

    with_tools, without = shipped(use)
    assert with_tools.tokens == without.tokens and with_tools.messages == talk(1)
