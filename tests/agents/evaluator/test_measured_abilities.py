"""Abilities are measured on the same prompts with the same seeds, before and after."""

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from agents.evaluator.abilities import MAX_TOKENS, Abilities
from agents.model.client import Completion, Prompt
from agents.model.templates import REFUSED, without_system
from corpus.abilities.prompts import AbilityPrompt, load, select
from corpus.errors import ModelUnavailable

PROMPTS = load()
REFUSAL = f"the model server refused /v1/batch/chat (400): this model's {REFUSED} the messages"


class Scripted:
    """A served model that gives the passing example to every prompt but some; counts what it is asked."""

    def __init__(self, failing: Sequence[AbilityPrompt] = (), *, system: bool = True) -> None:
        self.failing, self.system = failing, system
        self.prompts: list[Prompt] = []

    async def batch_chat(self, prompts: Sequence[Prompt]) -> list[Completion]:
        if not self.system and any(prompt.messages[0]["role"] == "system" for prompt in prompts):
            raise ModelUnavailable(REFUSAL)
        first = len(self.prompts)
        self.prompts += prompts
        rows = PROMPTS[first : first + len(prompts)]
        texts = [row.fails if row in self.failing else row.passes for row in rows]
        more: Any = {"token_ids": (), "finish_reason": "stop", "weights_version": 1, "weights_version_end": 1}
        return [Completion(text=text, **more) for text in texts]


async def _silent(done: int, total: int) -> None:
    pass


def outcomes(model: Any, *, seed: int = 0, first: int = 0) -> str:
    measure = Abilities(model=model).measure
    return anyio.run(lambda: measure(PROMPTS[first:], first=first, seed=seed, report=_silent))


def test_each_prompt_has_one_outcome_in_its_place() -> None:
    failing = (PROMPTS[3], PROMPTS[-1])
    expected = "".join("10"[prompt in failing] for prompt in PROMPTS)
    assert outcomes(Scripted(failing)) == expected


def test_the_seeds_are_fixed_by_seed_and_prompt() -> None:
    models = [Scripted() for _ in range(4)]
    for model, (seed, start) in zip(models, [(0, 0), (0, 0), (1, 0), (0, 2)], strict=True):
        outcomes(model, seed=seed, first=start)
    first, again, other_seed, rest = ([prompt.seed for prompt in model.prompts] for model in models)
    assert first == again and len(set(first)) == len(PROMPTS)
    assert not set(first) & set(other_seed) and rest == first[2:]
    assert {prompt.max_tokens for prompt in models[0].prompts} == {MAX_TOKENS}


def test_a_template_without_system_prompts_gets_them_in_the_users_message() -> None:
    model = Scripted(system=False)
    assert outcomes(model) == "1" * len(PROMPTS)
    asked = [list(prompt.messages) for prompt in model.prompts]
    assert asked == [without_system(prompt.messages) for prompt in PROMPTS]


def test_any_other_failure_of_the_server_is_not_hidden() -> None:
    class Away(Scripted):
        async def batch_chat(self, prompts: Sequence[Prompt]) -> list[Completion]:
            raise ModelUnavailable("the model server cannot be reached")

    with pytest.raises(ModelUnavailable, match="cannot be reached"):
        outcomes(Away())


@pytest.mark.parametrize("count", [0, 9, 100, 10_000])
def test_a_selection_has_prompts_of_every_topic_and_is_the_beginning_of_a_larger_one(count: int) -> None:
    chosen = select(PROMPTS, count)
    assert chosen == select(PROMPTS, 10_000)[:count] and len(chosen) == min(count, len(PROMPTS))
    assert count == 0 or len({prompt.topic for prompt in chosen}) == 9
