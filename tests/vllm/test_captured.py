"""OpenAI's chat client, through the service, to a real vLLM with a key: answered as by vLLM, and captured."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import openai
import pytest
from conftest import Vllm, free_port, new_home, point_at, serving
from sqlalchemy import select

from store.home import Home
from store.ledger import schema
from store.ledger.db import Ledger, database_url

KEYS = ("the-services-own-key", "a-callers-own-key")
CALM = {"max_tokens": 12, "temperature": 0, "seed": 1}
READY_S, HEARD_S, TRIES = 120.0, 120.0, 6


@dataclass(kw_only=True)
class Proxied:
    """A service in front of a vLLM."""

    vllm: Vllm
    home: Home
    url: str

    @contextmanager
    def client(self, key: str, url: str = "") -> Iterator[openai.OpenAI]:
        """Return OpenAI's client with this key, for the service or the server at `url`."""
        with httpx.Client(trust_env=False, timeout=60) as http:
            yield openai.OpenAI(base_url=url or self.url, api_key=key, max_retries=0, http_client=http)

    def receipt(self, receipt: str, states: tuple[str, ...] = ("ingested",)) -> dict[str, Any]:
        """Return the status once it is in one of these states."""
        headers, began = {"Authorization": f"Bearer {self.home.token()}"}, monotonic()
        with httpx.Client(headers=headers, trust_env=False) as http:
            while True:
                told: dict[str, Any] = http.get(f"{self.url.removesuffix('/v1')}/receipts/{receipt}").json()
                if told["state"] in states:
                    return told
                assert monotonic() - began < HEARD_S, told
                sleep(0.05)

    def turns(self) -> list[tuple[str, str, str]]:
        """Return source, role and text of every turn in the ledger."""
        c, t = schema.conversations, schema.turns
        query = select(c.c.source, t.c.role, t.c.text).join(c, c.c.id == t.c.conversation_id).order_by(t.c.id)
        with closing(Ledger(database_url(self.home.path, ""))) as ledger, ledger.reading() as connection:
            return [tuple(row) for row in connection.execute(query)]


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    place = tmp_path_factory.mktemp("captured")
    home, port, log = new_home(place / "home"), free_port(), place / "service.log"
    point_at(home, f"http://127.0.0.1:{port}", api_key=KEYS[0])
    with (
        serving(home, place / "vllm.log", port=port, arguments=("--api-key", *KEYS)) as vllm,
        log.open("wb") as out,
    ):
        command = [str(Path(sys.executable).with_name("nightschool")), "--home", str(home.path), "run"]
        service = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            yield Proxied(vllm=vllm, home=home, url=_ready(service, log))
        finally:
            service.terminate()
            service.wait(30)


def _ready(service: "subprocess.Popen[bytes]", log: Path) -> str:
    """Return the address that the service prints."""
    began = monotonic()
    while True:
        ready = [line for line in log.read_text().splitlines() if "] ready" in line]
        if ready:
            return next(word.removeprefix("url=") for word in ready[0].split() if word.startswith("url="))
        assert service.poll() is None and monotonic() - began < READY_S, log.read_text()
        sleep(0.1)


def test_a_conversation_through_the_service_is_vllms_own_and_one_conversation_in_the_ledger(
    proxied: Proxied,
) -> None:
    said: Any = [{"role": "user", "content": "Please book the bench."}]
    receipts = []
    with proxied.client(KEYS[1]) as client, proxied.client(KEYS[1], f"{proxied.vllm.url}/v1") as direct:
        model = client.models.list().data[0].id
        for streamed in (False, True):
            asked: dict[str, Any] = {"model": model, "messages": said, "user": "ada", **CALM}
            expected = direct.chat.completions.create(**asked).choices[0].message.content
            options = {"stream": True, "stream_options": {"include_usage": True}} if streamed else {}
            raw = client.chat.completions.with_raw_response.create(**asked, **options)
            receipts.append(raw.headers["x-nightschool-receipt"])
            answer: Any = raw.parse()
            if streamed:
                text = "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
            else:
                text = answer.choices[0].message.content
            assert text == expected
            said += [{"role": "assistant", "content": text}, {"role": "user", "content": "And the lamp?"}]
        side = client.chat.completions.with_raw_response.create(
            model=model, messages=said, extra_headers={"X-Turn-Type": "side"}, **CALM
        )
        assert (
            side.headers["x-nightschool-receipt"] == "none; side" and side.parse().choices[0].message.content
        )
    told = [proxied.receipt(receipt) for receipt in receipts]
    assert told[0]["conversation"] == told[1]["conversation"]
    assert proxied.turns() == [("ada", one["role"], one["content"]) for one in said[:4]]


def test_vllm_itself_refuses_an_unknown_key_and_an_unknown_model(
    proxied: Proxied,
) -> None:
    before = proxied.turns()
    with proxied.client("another-key") as client, pytest.raises(openai.AuthenticationError) as refused:
        client.models.list()
    assert refused.value.response.json() == {"error": "Unauthorized"}
    for key in (KEYS[1], proxied.home.token()):  # the home's token: under the service's own key
        with proxied.client(key) as client, pytest.raises(openai.NotFoundError) as unknown:
            client.chat.completions.create(model="another", messages=[{"role": "user", "content": "x"}])
        assert unknown.value.response.headers["x-nightschool-receipt"] == "none; error"
    assert proxied.turns() == before


def test_a_stream_whose_client_disconnects_is_not_captured(proxied: Proxied) -> None:
    more: dict[str, Any] = {"max_tokens": 450, "stream": True, "extra_body": {"ignore_eos": True}}
    with proxied.client(KEYS[1]) as client:
        model = client.models.list().data[0].id
        # On a busy machine the answer may be whole before the client disconnects.
        for attempt in range(TRIES):
            before = proxied.turns()
            said: Any = [{"role": "user", "content": f"hello {attempt}"}]
            with client.chat.completions.create(model=model, messages=said, **more) as stream:
                next(stream)
                receipt = stream.response.headers["x-nightschool-receipt"]
            seen = proxied.receipt(receipt, ("ingested", "not captured"))
            if seen["state"] == "not captured":
                break
    assert seen["reason"].startswith("the answer broke off")
    assert proxied.turns() == before
