"""The service's client, against the real server."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from agents.model.client import ModelClient, Prompt, open_client
from agents.model.requests import BATCH_ROWS
from corpus.errors import ModelUnavailable

pytestmark = pytest.mark.anyio
TOKEN = "a-token-that-is-long-enough-to-pass"


@pytest.fixture
async def client(server: Any) -> AsyncIterator[ModelClient]:
    async with open_client(token=TOKEN, socket=server.socket) as opened:
        yield opened


def prompt(number: int, **more: Any) -> Prompt:
    messages = [{"role": "user", "content": f"how are you {number % 7}?"}]
    return Prompt(**{"messages": messages, "seed": number, "temperature": 1.0, "max_tokens": 6} | more)


async def test_a_batch_longer_than_a_piece_returns_in_order_and_is_deterministic(client: ModelClient) -> None:
    prompts = [prompt(number) for number in range(BATCH_ROWS + 9)]
    first = await client.batch_chat(prompts)
    assert first == await client.batch_chat(prompts)
    # The rows after the first piece are a batch of their own, whatever came before them.
    assert first[BATCH_ROWS:] == await client.batch_chat(prompts[BATCH_ROWS:])
    assert len({one.text for one in first}) > BATCH_ROWS // 2


async def test_each_prompt_has_its_own_temperature_and_limit(client: ModelClient) -> None:
    cold, other_cold, short = await client.batch_chat(
        [
            prompt(0, temperature=0.0),
            prompt(0, seed=5, temperature=0.0),
            prompt(0, max_tokens=2),
        ]
    )
    assert cold == other_cold
    assert (len(cold.token_ids), len(short.token_ids)) == (6, 2)
    assert short.finish_reason == "length"


async def test_the_next_user_turn_can_be_requested(client: ModelClient) -> None:
    opened, as_user, answer = await client.batch_chat(
        [prompt(0, messages=[], opens="user"), prompt(1, opens="user"), prompt(1)]
    )
    assert opened.text and as_user.token_ids != answer.token_ids


async def test_a_text_is_continued_as_it_stands_beside_conversations(client: ModelClient) -> None:
    text = "how are you <|im_end|>"
    plain, rendered, other = await client.batch_chat(
        [prompt(3, messages=[], text=text), prompt(3), prompt(3, text=text)]
    )
    assert plain == other and plain.token_ids != rendered.token_ids


async def test_each_prompt_has_its_own_stop_strings_and_cuts(client: ModelClient) -> None:
    free, stopped = await client.batch_chat([prompt(2), prompt(2, stop=("zzz",))])
    assert free == stopped
    letter = free.text[1:2]
    cut, whole = await client.batch_chat([prompt(2, stop=(letter,)), prompt(2)])
    assert (cut.text, whole) == (free.text[: free.text.index(letter)], free)
    greedy, by_min, by_top = await client.batch_chat(
        [prompt(4, temperature=0.0), prompt(4, min_p=1.0), prompt(4, top_p=1e-9)]
    )
    assert greedy == by_min == by_top  # only the likeliest token is left


async def test_chat_and_tokens_and_the_served_model(client: ModelClient, server: Any) -> None:
    messages = [{"role": "user", "content": "how are you <|im_end|>?"}]
    answer = await client.chat(messages, seed=3, max_tokens=5)
    assert answer == await client.chat(messages, seed=3, max_tokens=5)
    (opened,) = await client.tokenize([messages])
    (closed,) = await client.tokenize([messages], add_generation_prompt=False)
    assert opened[: len(closed)] == closed
    assert opened.count(2) == 1
    assert await client.tokenize_texts([]) == []
    assert len(await client.tokenize_texts(["a"] * 1030)) == 1030
    served = await client.served_model()
    assert (served.name, served.context, served.end_token_ids) == ("tiny", 512, (2,))
    assert await client.health()


async def test_a_user_is_answered_while_a_batch_runs_and_an_abandoned_batch_stops(
    client: ModelClient, server: Any
) -> None:
    long = [prompt(number, max_tokens=400, temperature=5.0) for number in range(BATCH_ROWS)]
    batch = asyncio.create_task(client.batch_chat(long * 8))
    while not (await client.metrics())["nightschool_batch_requests_running"]:
        pass
    answer = await client.chat([{"role": "user", "content": "hello"}], max_tokens=20, seed=1)
    assert answer.text
    assert not batch.done()
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    while (await client.metrics())["nightschool_batch_requests_running"]:
        pass


async def test_a_refusal_has_the_servers_own_sentence(client: ModelClient) -> None:
    with pytest.raises(ModelUnavailable, match=r"refused /v1/chat/completions \(400\): messages must be"):
        await client.chat([])


async def test_the_error_for_a_wrong_token_names_the_file_with_the_right_one(server: Any) -> None:
    async with open_client(token="wrong", socket=server.socket) as client:
        assert await client.health()
        with pytest.raises(ModelUnavailable, match=r"401.*the file token in the home"):
            await client.served_model()


async def test_a_missing_server_is_reported(tmp_path: Path) -> None:
    async with open_client(token=TOKEN, socket=tmp_path / "none.sock") as client:
        assert not await client.health()
        with pytest.raises(ModelUnavailable, match="start the service"):
            await client.served_model()


async def test_an_answer_has_no_fixed_time_limit_and_all_else_two_minutes() -> None:
    waited: dict[str, float | None] = {}

    def answer(request: httpx.Request) -> httpx.Response:
        waited[request.url.path] = request.extensions["timeout"]["read"]
        return httpx.Response(200, json={"results": [], "tokens": [], "data": []})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://server") as http:
        client = ModelClient(http)
        await client.tokenize_texts(["a"])
        with pytest.raises(IndexError):  # the server answers with no row
            (await client.batch_chat([prompt(0)]))[0]
    assert waited == {"/v1/batch/tokenize": 120, "/v1/batch/chat": None}
