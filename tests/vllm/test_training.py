"""Training the weights that vLLM serves, while it serves."""

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from conftest import Vllm

from bench._served import STEPS, Alongside, Load, alongside, load_from_clients, sum_of, trainer
from corpus.recipe import MODEL_DIR

TEXT = list(range(20, 60))

With = Callable[[Callable[[Alongside], Awaitable[Any]]], Any]


@pytest.fixture(scope="module")
def socket(vllm: Vllm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A trainer on the served weights."""
    with trainer(vllm.home, MODEL_DIR, tmp_path_factory.mktemp("trainer")) as place:
        yield place


@pytest.fixture
def together(vllm: Vllm, socket: Path) -> With:
    """Run something with the trainer, and restore the weights afterwards."""

    def run(what: Callable[[Alongside], Awaitable[Any]]) -> Any:
        async def within() -> Any:
            async with alongside(vllm.home, socket) as training:
                return await what(training)

        return anyio.run(within)

    return run


def test_60_steps_train_while_8_clients_are_served_and_not_one_request_fails(
    vllm: Vllm, together: With
) -> None:
    before = sum_of(vllm.url, TEXT, "before")

    async def both(training: Alongside) -> tuple[Load, int, float]:
        made, loads = anyio.Event(), []

        async def ask() -> None:
            loads.append(await load_from_clients(vllm.url, during=lambda: not made.is_set()))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            result = await training.client.train(training.update(pairs=8, lr=1e-3))
            made.set()
        return loads[0], result.steps, sum_of(vllm.url, TEXT, "after")

    load, steps, after = together(both)
    assert steps == STEPS
    assert not load.errors and load.answers >= 8
    assert after != before, "the steps are not served"
    assert sum_of(vllm.url, TEXT, "undone") == before


def test_between_two_steps_server_and_trainer_read_the_same_weights(vllm: Vllm, together: With) -> None:
    async def scores(training: Alongside) -> tuple[float, float]:
        await training.client.train(training.update(pairs=8, steps=3, lr=1e-3))
        (told,) = await training.client.logprobs([(TEXT[:1], TEXT[1:])])
        return told.total, sum_of(vllm.url, TEXT, "trained")

    trainers, served = together(scores)
    assert abs(trainers - served) / len(TEXT) <= 1e-3
