"""Waiting for a model: an answer that takes long, and a server that hangs."""

import anyio
import pytest

from agents.model.patience import patiently, progress_of


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_a_slow_answer_is_awaited_while_the_server_makes_progress() -> None:
    done = anyio.Event()
    looks = 0

    async def request() -> str:
        await done.wait()
        return "answer"

    async def progress() -> float:
        nonlocal looks
        looks += 1
        if looks == 50:
            done.set()
        return float(looks)

    assert await patiently(request, progress, limit=1.0, every=0.0) == "answer"
    assert looks >= 50


@pytest.mark.anyio
async def test_a_server_without_progress_is_given_up_and_its_request_is_cancelled() -> None:
    cancelled = False

    async def request() -> str:
        nonlocal cancelled
        try:
            await anyio.sleep_forever()
        finally:
            cancelled = True
        raise AssertionError

    async def stuck() -> float:
        return 7.0

    async def broken() -> float:
        raise ConnectionError

    for progress in (stuck, broken):
        cancelled = False
        with pytest.raises(TimeoutError):
            await patiently(request, progress, limit=0.001, every=0.0)
        assert cancelled


@pytest.mark.anyio
async def test_an_error_of_the_request_is_raised_as_it_is() -> None:
    async def request() -> str:
        raise ValueError("refused")

    async def progress() -> float:
        return 0.0

    with pytest.raises(ValueError, match="refused"):
        await patiently(request, progress, limit=60.0, every=60.0)


def test_progress_is_read_from_the_metrics_of_either_server() -> None:
    assert progress_of({"nightschool_tokens_total": 5.0, "nightschool_weights_version": 9.0}) == 5.0
    assert progress_of({"vllm:prompt_tokens_total": 5.0, "vllm:generation_tokens_total": 2.0}) == 7.0
    assert progress_of({}) == 0.0
