"""The proxy: traffic passes through unchanged, and conversations become a log that nights learn from."""

import json
import resource
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import copytree
from typing import Any

import anyio
import httpx
import pytest
from anyio.abc import SocketAttribute, SocketStream
from small import LOOK_S, cli_json, fresh_home, small_home, wait_until
from small import Service as Running
from sqlalchemy import select

from agents.ingest.follow import follow
from agents.model.client import open_client
from loop.api import proxy
from loop.api.http import serve
from loop.capture.log import append
from loop.config import load_settings
from loop.engine.service import Service, opened
from loop.operations.operations import Operations
from store.home import Home
from store.ledger import schema

pytestmark = pytest.mark.anyio
KEY = "the-key-of-the-model-server"
CALLER = "a-callers-own-credential"
QUESTION = {"role": "user", "content": "Please book the bench."}
WAIT_S = 20.0
Script = Callable[[SocketStream], Awaitable[None]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def plain(text: str = "For which day?", status: str = "200 OK", more: str = "") -> bytes:
    """Return a complete answer as it is sent over the wire."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = json.dumps({"choices": [choice]}, indent=3)
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{more}Content-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(content: str | None, reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": reason}
    return f"data:  {json.dumps({'choices': [choice]})}\n\n".encode()


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
DONE = b"data: [DONE]\n\n"


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    """Return the first true value of this condition, polled until the deadline."""
    with anyio.fail_after(WAIT_S):
        while True:
            if value := await condition():
                return value
            await anyio.sleep(LOOK_S)


@dataclass(kw_only=True)
class Upstream:
    """A scripted foreign server that records the requests."""

    answers: list[bytes | Script] = field(default_factory=list)
    heads: list[list[tuple[str, str]]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    hung_up: anyio.Event = field(default_factory=anyio.Event)

    async def handle(self, stream: SocketStream) -> None:
        """Serve one connection with one request."""
        async with stream:
            raw = b""
            while b"\r\n\r\n" not in raw:
                raw += await stream.receive()
            head, _, body = raw.partition(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            headers = [
                (name.lower(), value) for name, _, value in (line.partition(": ") for line in lines[1:])
            ]
            while len(body) < int(dict(headers).get("content-length", 0)):
                body += await stream.receive()
            self.heads.append([("", lines[0]), *headers])
            self.bodies.append(body)
            answer = self.answers.pop(0)
            try:
                await (stream.send(answer) if isinstance(answer, bytes) else answer(stream))
            except anyio.BrokenResourceError:
                self.hung_up.set()

    def sent(self, number: int, name: str) -> list[str]:
        """Return the values of a header of a request."""
        return [value for sent_name, value in self.heads[number] if sent_name == name]


@dataclass(kw_only=True)
class Proxied:
    """A service in front of an upstream server."""

    service: Service
    upstream: Upstream
    http: httpx.AsyncClient

    async def ask(
        self, *messages: Any, headers: dict[str, str] | None = None, **fields: Any
    ) -> httpx.Response:
        body = {"messages": list(messages) or [QUESTION], **fields}
        return await self.http.post("/v1/chat/completions", json=body, headers=headers)

    async def look_up(self, receipt: str) -> dict[str, Any]:
        receipt_state: dict[str, Any] = (await self.http.get(f"/receipts/{receipt}", headers=self.own)).json()
        return receipt_state

    @property
    def own(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.service.home.token()}"}

    async def became(self, receipt: str, state: str) -> dict[str, Any]:
        """Return a receipt once it is in this state."""

        async def look() -> dict[str, Any] | None:
            receipt_state = await self.look_up(receipt)
            return receipt_state if receipt_state["state"] == state else None

        reached: dict[str, Any] = await until(look)
        return reached

    async def heard(self, *texts: str) -> None:
        """Return once exactly these turns are in the ledger."""

        async def look() -> bool:
            return sorted(turn[2] for turn in await self.turns()) == sorted(texts)

        await until(look)

    async def turns(self) -> list[tuple[str, str, str]]:
        """Return conversation, role and text of every turn in the ledger."""
        t = schema.turns.c
        query = select(t.conversation_id, t.role, t.text).order_by(t.conversation_id, t.position)
        return [tuple(row) for row in await self.service.ledger.read(lambda c: c.execute(query).all())]

    def lines(self) -> list[str]:
        return [
            line
            for path in sorted(self.service.home.inbox.iterdir())
            for line in path.read_text().splitlines()
        ]


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a home without conversations."""
    return fresh_home(tmp_path_factory.mktemp("blank") / "home")


@asynccontextmanager
async def proxying(place: Path, *, key: str = KEY, capture: bool = True) -> AsyncIterator[Proxied]:
    """Run the service's HTTP server, ledger and ingest in front of a scripted model server."""
    home, upstream = Home(place), Upstream()
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
    async with (
        listener,
        opened(home, load_settings(home.config_file)) as own,
        open_client(token=key, base_url=url) as model,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, upstream.handle)
        tables = {
            "model": replace(own.settings.model, url=url, api_key=key),
            "http": replace(own.settings.http, capture=capture),
        }
        settings = own.settings.model_copy(update=tables)
        service = replace(own, context=replace(own.context, settings=settings, model=model))
        tasks.start_soon(follow, service.ledger, [home.inbox], service.worker.wake)
        port = await serve(Operations(service=service), tasks, place=home.control_socket, port=0)
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {CALLER}"},
            trust_env=False,
            timeout=WAIT_S,
        ) as http:
            yield Proxied(service=service, upstream=upstream, http=http)
        tasks.cancel_scope.cancel()


@pytest.fixture
async def proxied(blank: Path, tmp_path: Path) -> AsyncIterator[Proxied]:
    async with proxying(copytree(blank, tmp_path / "home")) as proxied_service:
        yield proxied_service


# ---------------------------------------------------------------- what goes through


async def test_request_and_answer_pass_through_byte_for_byte(proxied: Proxied) -> None:
    answer = plain(more="X-Request-Id: r7\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n")
    proxied.upstream.answers.append(answer)
    body = b'{"messages" : [{"role":"user","content":"Please."}],\n "extra": {"top_k": 1}}  '
    headers = {"Content-Type": "application/json; charset=utf-8", "X-Session-Id": "s1", "Cookie": "a=b"}
    got = await proxied.http.post("/v1/chat/completions?trace=1", content=body, headers=headers)
    assert got.content == answer.partition(b"\r\n\r\n")[2]
    assert (got.headers["content-type"], got.headers["x-request-id"]) == ("application/json", "r7")
    assert "x-hop" not in got.headers and len(got.headers.get_list("date")) == 1
    assert proxied.upstream.bodies == [body] and proxied.upstream.sent(0, "accept-encoding") == ["identity"]
    assert proxied.upstream.heads[0][0][1] == "POST /v1/chat/completions?trace=1 HTTP/1.1"
    assert proxied.upstream.sent(0, "content-type") == ["application/json; charset=utf-8"]
    assert proxied.upstream.sent(0, "x-session-id") == ["s1"] and not proxied.upstream.sent(0, "cookie")


async def test_a_stream_passes_through_byte_for_byte_and_piece_by_piece(proxied: Proxied) -> None:
    arrived = [anyio.Event() for _ in range(3)]
    pieces = [event("For which "), event("day?"), event(None, "stop") + DONE]

    async def answer(stream: SocketStream) -> None:
        await stream.send(STREAM_HEAD)
        for piece, seen in zip(pieces, arrived, strict=True):
            await stream.send(chunk(piece))
            await seen.wait()  # nothing more comes before this piece has arrived
        await stream.send(chunk(b""))

    proxied.upstream.answers.append(answer)
    asking = {"messages": [QUESTION], "stream": True}
    async with proxied.http.stream("POST", "/v1/chat/completions", json=asking) as got:
        receipt, seen, received = got.headers["x-nightschool-receipt"], iter(arrived), b""
        assert (await proxied.look_up(receipt))["state"] == "pending"
        async for piece in got.aiter_raw():
            received += piece
            next(seen).set()
    assert received == b"".join(pieces) and got.headers["content-type"] == "text/event-stream; charset=utf-8"
    await proxied.became(receipt, "ingested")
    assert [turn[1:] for turn in await proxied.turns()] == [
        ("user", QUESTION["content"]),
        ("assistant", "For which day?"),
    ]


async def test_a_conversation_whose_history_is_repeated_is_one_conversation_in_the_ledger(
    proxied: Proxied,
) -> None:
    messages: list[dict[str, str]] = []
    receipts = []
    for question, answer in (("One?", "1."), ("Two?", " 2.\n"), ("Three?", "3.")):
        messages.append({"role": "user", "content": question})
        proxied.upstream.answers.append(plain(answer))
        got = await proxied.ask(*messages, headers={"X-Turn-Type": "main"})
        messages.append({"role": "assistant", "content": answer.strip()})  # as many clients repeat it
        receipts.append(got.headers["x-nightschool-receipt"])
    entries = [await proxied.became(receipt, "ingested") for receipt in receipts]
    turns = await proxied.turns()
    assert [(role, text.strip()) for _, role, text in turns] == [
        (entry["role"], entry["content"]) for entry in messages
    ]
    assert {entry["conversation"] for entry in entries} == {turns[0][0]} and len(
        {turn[0] for turn in turns}
    ) == 1


async def test_within_a_session_a_changing_system_prompt_does_not_begin_a_new_conversation(
    proxied: Proxied,
) -> None:
    for session, conversations in (("s1", 1), ("", 3)):
        messages = [{"role": "system", "content": ""}]
        for minute in (1, 2):
            messages[0] = {"role": "system", "content": f"It is 12:0{minute}. {session}"}
            messages.append({"role": "user", "content": f"{minute}?"})
            proxied.upstream.answers.append(plain(f"{minute}."))
            got = await proxied.ask(*messages, headers={"X-Session-Id": session} if session else None)
            messages.append({"role": "assistant", "content": f"{minute}."})
            await proxied.became(got.headers["x-nightschool-receipt"], "ingested")
        assert len({turn[0] for turn in await proxied.turns()}) == conversations
    keys = await proxied.service.ledger.read(
        lambda c: set(c.execute(select(schema.conversations.c.key)).scalars())
    )
    assert keys == {"s1", ""}


async def test_the_same_exchange_twice_is_one_conversation_and_both_receipts_name_it(
    proxied: Proxied,
) -> None:
    proxied.upstream.answers += [plain(), plain()]
    receipts = [(await proxied.ask()).headers["x-nightschool-receipt"] for _ in range(2)]
    first, second = [(await proxied.became(receipt, "ingested"))["conversation"] for receipt in receipts]
    assert first == second == (await proxied.turns())[0][0]
    for path in proxied.service.home.inbox.iterdir():
        path.unlink()
    assert (await proxied.look_up(receipts[0]))[
        "conversation"
    ] == first  # the ledger has it as the turn's key
    assert (await proxied.http.get("/receipts/nonsense", headers=proxied.own)).status_code == 404


# ---------------------------------------------------------------- what is not captured


@pytest.mark.parametrize("kind", ["side", "SIDE", "title", "", "main, side"])
async def test_side_traffic_is_answered_and_never_captured(proxied: Proxied, kind: str) -> None:
    before = proxied.service.users.last_asked
    proxied.upstream.answers += [plain("A bench, booked"), plain()]
    got = await proxied.ask(headers={"X-Turn-Type": kind, **proxied.own})
    assert got.status_code == 200 and got.headers["x-nightschool-receipt"] == "none; side"
    assert proxied.service.users.last_asked == before
    main = await proxied.ask(headers={"X-Turn-Type": "Main", **proxied.own})
    await proxied.became(main.headers["x-nightschool-receipt"], "ingested")
    assert [turn[2] for turn in await proxied.turns()] == [QUESTION["content"], "For which day?"]
    assert len(proxied.lines()) == 1 and proxied.service.users.last_asked > before


@pytest.mark.parametrize(
    "fields, word",
    [({"n": 2}, "choices"), ({"steer": {"joy": 1}}, "steered"), ({"messages": []}, "request")],
)
async def test_an_exchange_that_cannot_be_captured_is_passed_on_with_the_reason_in_its_header(
    proxied: Proxied, fields: dict[str, Any], word: str
) -> None:
    proxied.upstream.answers.append(plain())
    got = await proxied.http.post("/v1/chat/completions", json={"messages": [QUESTION], **fields})
    assert (got.status_code, got.headers["x-nightschool-receipt"]) == (200, f"none; {word}")
    assert not proxied.lines()


async def test_a_body_is_not_parsed_for_a_credential_that_the_model_server_refuses(
    proxied: Proxied, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []
    known = proxy.parse_request

    def parse(body: bytes) -> Any:
        parsed.append(body)
        return known(body)

    monkeypatch.setattr(proxy, "parse_request", parse)
    proxied.upstream.answers += [b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n", plain()]
    got = await proxied.ask(headers={"Authorization": "Bearer junk"})
    assert (got.status_code, got.headers["x-nightschool-receipt"], parsed) == (401, "none; error", [])
    got = await proxied.ask()
    await proxied.became(got.headers["x-nightschool-receipt"], "ingested")
    assert len(parsed) == 1


@pytest.mark.parametrize("status", ["401 Unauthorized", "404 Not Found", "429 Too Many Requests", "500 Oops"])
async def test_an_error_of_the_model_server_is_returned_and_not_captured(
    proxied: Proxied, status: str
) -> None:
    proxied.upstream.answers.append(plain("no", status=status, more="Retry-After: 7\r\n"))
    got = await proxied.ask()
    assert (got.status_code, got.headers["retry-after"]) == (int(status[:3]), "7")
    assert got.headers["x-nightschool-receipt"] == "none; error" and not proxied.lines()


@pytest.mark.parametrize(
    "call, named",
    [
        ("ingest", {"paths": "/etc"}),
        ("rollback", {"target": ["a"]}),
        ("ask", {"text": 5}),
        ("night", {"seed": "x"}),
        ("forget", {"source": None, "path": ""}),
    ],
)
async def test_an_argument_of_another_type_is_refused_and_nothing_is_done(
    proxied: Proxied, call: str, named: dict[str, Any]
) -> None:
    """A text in place of a list of paths was read as a list of letters, `/` among them."""
    got = await proxied.http.post(f"/do/{call}", json=named, headers=proxied.own)
    error = got.json()["error"]
    assert (error["exit_code"], error["message"].split(": ")[:2]) == (2, [call, next(iter(named))])
    assert not await proxied.turns()


async def test_an_absent_model_server_is_reported_with_a_message(proxied: Proxied) -> None:
    async def hang_up(_stream: SocketStream) -> None:
        return None

    proxied.upstream.answers.append(hang_up)
    got = await proxied.ask()
    assert (got.status_code, got.headers["x-nightschool-receipt"]) == (503, "none; error")
    assert "try again" in got.json()["error"]["message"] and not proxied.lines()


async def test_a_caller_who_disconnects_mid_stream_ends_the_request_and_is_not_captured(
    proxied: Proxied,
) -> None:
    async def endless(stream: SocketStream) -> None:
        await stream.send(STREAM_HEAD)
        while True:
            await stream.send(chunk(event("on and ")))

    proxied.upstream.answers.append(endless)
    async with proxied.http.stream(
        "POST", "/v1/chat/completions", json={"messages": [QUESTION], "stream": True}
    ) as got:
        receipt = got.headers["x-nightschool-receipt"]
        await anext(got.aiter_raw())
    entry = await proxied.became(receipt, "not captured")
    assert entry["reason"].startswith("the answer broke off")
    with anyio.fail_after(WAIT_S):
        await proxied.upstream.hung_up.wait()
    assert not proxied.lines()


async def test_a_caller_who_disconnects_before_the_answer_begins_ends_the_request(proxied: Proxied) -> None:
    begun = anyio.Event()

    async def wait(stream: SocketStream) -> None:
        begun.set()
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()
        proxied.upstream.hung_up.set()

    proxied.upstream.answers.append(wait)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(proxied.ask)
        await begun.wait()
        tasks.cancel_scope.cancel()
    with anyio.fail_after(WAIT_S):
        await proxied.upstream.hung_up.wait()
    assert not proxied.lines()


@pytest.mark.parametrize("streamed", [True, False])
async def test_an_interrupted_answer_reaches_the_caller_as_interrupted_and_is_not_captured(
    proxied: Proxied, streamed: bool
) -> None:
    async def break_off(stream: SocketStream) -> None:
        await stream.send(STREAM_HEAD + chunk(event("For")) if streamed else plain()[:-5])

    proxied.upstream.answers.append(break_off)
    asking = {"messages": [QUESTION], "stream": streamed}
    async with proxied.http.stream("POST", "/v1/chat/completions", json=asking) as got:
        with pytest.raises(httpx.RemoteProtocolError):
            await got.aread()
    entry = await proxied.became(got.headers["x-nightschool-receipt"], "not captured")
    assert entry["reason"].startswith("the answer broke off") and not proxied.lines()


async def test_nothing_is_captured_when_the_configuration_disables_it(blank: Path, tmp_path: Path) -> None:
    async with proxying(copytree(blank, tmp_path / "home"), capture=False) as proxied:
        proxied.upstream.answers.append(plain())
        assert (await proxied.ask()).headers["x-nightschool-receipt"] == "none; off"
        assert not proxied.lines()


# ---------------------------------------------------------------- who may ask


async def test_the_callers_credential_is_passed_on_and_the_homes_token_is_replaced(
    proxied: Proxied,
) -> None:
    proxied.upstream.answers += [plain(), plain(), plain(), plain()]
    await proxied.ask()
    await proxied.ask(headers={"Authorization": "Basic YTpi"})
    await proxied.ask(headers=proxied.own)
    await proxied.http.get("/v1/models", headers=proxied.own)
    sent = [proxied.upstream.sent(number, "authorization") for number in range(4)]
    assert sent == [[f"Bearer {CALLER}"], ["Basic YTpi"], [f"Bearer {KEY}"], [f"Bearer {KEY}"]]
    assert proxied.upstream.heads[3][0][1] == "GET /v1/models HTTP/1.1"


async def test_each_caller_is_a_separate_source_that_does_not_reveal_the_credential(
    proxied: Proxied,
) -> None:
    proxied.upstream.answers += [plain("a"), plain("b"), plain("c"), plain("d")]
    receipts = [
        (await proxied.ask(headers=headers, **fields)).headers["x-nightschool-receipt"]
        for headers, fields in ((None, {}), (None, {}), (proxied.own, {}), (None, {"user": "ada"}))
    ]
    for receipt in receipts:
        await proxied.became(receipt, "ingested")
    c = schema.conversations.c
    sources = await proxied.service.ledger.read(
        lambda con: con.execute(select(c.source).order_by(c.at)).scalars().all()
    )
    assert sources[0] == sources[1] != sources[2] and sources[3] == "ada"
    assert all(source.startswith("caller-") for source in sources[:3])
    assert CALLER not in "".join(proxied.lines()) and proxied.service.home.token() not in "".join(
        proxied.lines()
    )


async def test_without_a_credential_from_another_page_or_for_another_path_a_caller_is_refused(
    proxied: Proxied,
) -> None:
    for headers in ({"Authorization": ""}, {"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        assert (await proxied.ask(headers=headers)).status_code in (401, 403)
    for path in ("/status", "/receipts/20261124-0123456789abcdef", "/v1/models/", "/v1/other"):
        assert (await proxied.http.get(path)).status_code == 401
    assert (await proxied.http.post("/do/pause")).status_code == 401
    assert not proxied.upstream.heads


async def test_a_model_server_without_a_key_is_reached_only_with_the_homes_token(
    blank: Path, tmp_path: Path
) -> None:
    async with proxying(copytree(blank, tmp_path / "home"), key="") as proxied:
        assert (await proxied.ask()).status_code == 401
        proxied.upstream.answers.append(plain())
        assert (await proxied.ask(headers=proxied.own)).status_code == 200


# ---------------------------------------------------------------- the file


async def test_concurrent_requests_do_not_mix_their_lines_and_the_file_is_private(proxied: Proxied) -> None:
    texts = [f"{number}" * 5000 for number in range(20)]
    proxied.upstream.answers += [plain(text) for text in texts]
    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(proxied.ask, {"role": "user", "content": f"{number}?"})
    await proxied.heard(*texts, *(f"{number}?" for number in range(20)))
    assert sorted(json.loads(line)["messages"][-1]["content"] for line in proxied.lines()) == sorted(texts)
    (path,) = proxied.service.home.inbox.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_secret_in_a_conversation_does_not_reach_the_ledger(proxied: Proxied) -> None:
    proxied.upstream.answers.append(plain())
    got = await proxied.ask({"role": "user", "content": "Use sk-abcdefghij0123456789 for it."})
    await proxied.became(got.headers["x-nightschool-receipt"], "ingested")
    assert (await proxied.turns())[0][2] == "Use [secret:api-key] for it."


KILLED = """\
import resource, signal, sys
from pathlib import Path
from loop.capture.log import append
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the kernel kills in mid-write, once so many bytes are written
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
append(Path(sys.argv[1]), sys.stdin.buffer.read())
"""


def line(text: str) -> bytes:
    return json.dumps({"user": "ada", "messages": [{"role": "user", "content": text}]}).encode() + b"\n"


@pytest.mark.parametrize("before", [b"", line("first")])
async def test_an_unfinished_line_of_a_killed_writer_does_not_run_into_the_next(
    proxied: Proxied, before: bytes
) -> None:
    place = proxied.service.home.inbox / "captured-2026-11-24.jsonl"
    if before:
        append(place, before)
    command = [sys.executable, "-W", "error", "-c", KILLED, str(place), str(len(before) + 20)]
    killed = await anyio.run_process(
        command, input=line("x" * 100), cwd=Path(__file__).parents[3], check=False
    )
    assert killed.returncode == -signal.SIGXFSZ and place.read_bytes() == before + line("x" * 100)[:20]
    append(place, line("last"))
    await proxied.heard(*(["first"] if before else []), "last")


@pytest.fixture
def file_limit() -> Iterator[Callable[[int], None]]:
    """Limit the size of this process's files, and lift the limit afterwards."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_costs_the_capture_and_not_the_answer(
    proxied: Proxied, file_limit: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    proxied.upstream.answers += [plain(), plain("No."), plain("Later.")]
    first = await proxied.ask()
    await proxied.became(first.headers["x-nightschool-receipt"], "ingested")
    (path,) = proxied.service.home.inbox.iterdir()
    with path.open("ab") as stream:
        stream.write(
            b" " * (2**23 - path.stat().st_size - 1) + b"\n"
        )  # longer than any other file of this home
    file_limit(2**23 + 100)
    second = await proxied.ask(QUESTION)
    assert second.status_code == 200 and second.json()["choices"][0]["message"]["content"] == "No."
    entry = await proxied.became(second.headers["x-nightschool-receipt"], "not captured")
    assert "disk" in entry["reason"]
    assert "captured conversations are lost" in "".join(capsys.readouterr())  # the log is where it was set up
    assert path.stat().st_size == 2**23  # nothing of the line stays
    file_limit(resource.RLIM_INFINITY)
    third = await proxied.ask()
    await proxied.became(third.headers["x-nightschool-receipt"], "ingested")


# ---------------------------------------------------------------- the real model


@pytest.mark.slow
def test_a_correction_through_the_proxy_is_learnt_and_side_traffic_about_it_is_not(
    tmp_path: Path, start_service: Callable[..., Running]
) -> None:
    home = Home(small_home(tmp_path / "home"))
    service = start_service(home.path)
    url, receipts = service.ready()["url"], []
    messages = [{"role": "user", "content": "I have decided to paint the door."}]
    with httpx.Client(
        headers={"Authorization": f"Bearer {home.token()}"}, timeout=60, trust_env=False
    ) as http:

        def ask(streamed: bool, kind: str = "main") -> str:
            body = {"messages": messages, "max_tokens": 24, "seed": 3, "stream": streamed, "user": "ada"}
            got = http.post(
                f"{url}/chat/completions", json=body, headers={"X-Turn-Type": kind, "X-Session-Id": "s1"}
            )
            receipts.append(got.headers["x-nightschool-receipt"])
            if not streamed:
                return str(got.json()["choices"][0]["message"]["content"])
            chunks = [json.loads(event.removeprefix("data: ")) for event in got.text.split("\n\n")[:-2]]
            return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)

        def became() -> list[dict[str, Any]] | None:
            own = url.removesuffix("/v1")
            entries = [
                http.get(f"{own}/receipts/{receipt}").json() for receipt in receipts if "none" not in receipt
            ]
            return entries if {entry["state"] for entry in entries} == {"ingested"} else None

        for streamed in (True, False):
            messages.append({"role": "assistant", "content": ask(streamed)})
            messages.append({"role": "user", "content": "No, just do what I said, without alternatives."})
        messages[-1] = {"role": "user", "content": "Write a title for this conversation."}
        ask(False, "side")
        entries = wait_until(became, "what was said is in the ledger", 30)
        signals = wait_until(lambda: cli_json(home.path, "ledger", "signals")["signals"], "a signal", 30)
    assert receipts[2] == "none; side" and len({entry["conversation"] for entry in entries}) == 1
    assert [(entry["source"], entry["behaviour"]) for entry in signals] == [("ada", signals[0]["behaviour"])]
    assert signals[0]["kind"] == "correction" and signals[0]["behaviour"], signals
    lines = [json.loads(line) for path in home.inbox.iterdir() for line in path.read_text().splitlines()]
    assert [len(line["messages"]) for line in lines] == [2, 4]
    assert lines[1]["messages"][1]["content"] == messages[1]["content"] != ""
