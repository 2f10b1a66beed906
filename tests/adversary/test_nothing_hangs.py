"""What would wait for ever is found: a stopped child, a silent connection, a prompt that is far too long."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
import small
import uvicorn

from agents.model import requests
from agents.model.client import ModelClient
from agents.model.embedded import http_limits
from agents.model.http_auth import AuthMiddleware, server_config
from corpus.errors import UsageError
from corpus.json_edge import MAX_BRACKETS, MAX_COMMAS, parse
from loop.capture.exchange import Refusal, parse_request
from loop.engine import children, vllm_watch, watchdog
from loop.engine.watchdog import BEAT_S, BUSY_MISSED, MISSED, cpu_ticks, is_hung

TOKEN = "t" * 43
BUDGET_S = 10.0
"""Within which a stopped child is found and started again."""


def test_an_idle_child_that_owes_answers_is_hung_and_a_working_one_much_later() -> None:
    assert [is_hung(missed, worked=False) for missed in (0, MISSED - 1, MISSED)] == [False, False, True]
    assert [is_hung(missed, worked=True) for missed in (MISSED, BUSY_MISSED - 1, BUSY_MISSED)] == [
        False,
        False,
        True,
    ]
    assert BEAT_S + MISSED * BEAT_S < BUDGET_S


async def silent() -> None:
    await anyio.sleep_forever()


async def broken() -> None:
    raise RuntimeError("no answer")


async def refused() -> bool:
    return False


@pytest.mark.parametrize("answers", [silent, broken, refused])
def test_a_stopped_child_is_killed(monkeypatch: pytest.MonkeyPatch, answers: Any) -> None:
    monkeypatch.setattr(watchdog, "BEAT_S", 0.05)

    async def watch() -> int:
        process = await anyio.open_process([sys.executable, "-c", "import time; time.sleep(600)"])
        process.send_signal(signal.SIGSTOP)
        await children.ended_or_hung("test", process, answers)
        return process.returncode or 0

    assert anyio.run(watch) == -signal.SIGKILL


def test_a_child_that_answers_is_left_alone_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "BEAT_S", 0.01)

    async def watch() -> tuple[int, int]:
        asked = 0
        process = await anyio.open_process([sys.executable, "-c", "import sys; sys.stdin.read()"])

        async def answers() -> None:
            nonlocal asked
            asked += 1
            if asked == 5 and process.stdin:
                await process.stdin.aclose()

        await children.ended_or_hung("test", process, answers)
        return process.returncode or 0, asked

    code, asked = anyio.run(watch)
    assert code == 0 and asked >= 5


def test_processor_time_is_counted_and_a_dead_process_has_none() -> None:
    before, deadline = cpu_ticks(os.getpid()), time.process_time() + 0.05
    while time.process_time() < deadline:
        pass
    assert cpu_ticks(os.getpid()) > before > 0 == cpu_ticks(2**22 + 1)


# ---------------------------------------------------------------- connections


async def app(scope: Any, receive: Any, send: Any) -> None:
    more = True
    while more:
        more = (await receive()).get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"in"})


@asynccontextmanager
async def served() -> AsyncIterator[int]:
    """Serve the app behind our middleware on loopback; yield the port."""
    listening = socket.create_server(("127.0.0.1", 0))
    port = int(listening.getsockname()[1])
    server = uvicorn.Server(server_config(AuthMiddleware(app, token=TOKEN, port=port)))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, [listening])
        while not server.started:  # noqa: ASYNC110  uvicorn has no event for it
            await anyio.sleep(0.01)
        yield port
        server.should_exit = True
    listening.close()


HEAD = f"POST /x HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"


async def answer_to(port: int, *pieces: str) -> bytes:
    """Send these pieces on a new connection and return all that comes until it is closed."""
    got = b""
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        try:
            for piece in pieces:
                await stream.send(piece.encode())
            while True:
                got += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return got


@pytest.mark.parametrize(
    "pieces",
    [(), ("GET /x HTTP/1.1\r\nHost: 127",), (f"{HEAD}Content-Length: 9\r\n\r\nab",)],
    ids=["silent", "half a head", "half a body"],
)
def test_a_connection_that_sends_no_whole_request_is_closed(
    monkeypatch: pytest.MonkeyPatch, pieces: tuple[str, ...]
) -> None:
    monkeypatch.setattr(http_limits, "HEAD_S", 0.2)
    monkeypatch.setattr(http_limits, "BODY_S", 0.2)

    async def ask() -> tuple[bytes, bytes]:
        async with served() as port:
            with anyio.fail_after(60):
                whole = f"{HEAD}Connection: close\r\nContent-Length: 2\r\n\r\nab"
                return await answer_to(port, *pieces), await answer_to(port, whole)

    got, good = anyio.run(ask)
    assert b"200" not in got and good.endswith(b"in")


def test_connections_over_the_limit_are_closed_and_the_others_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_limits, "MAX_CONNECTIONS", 9)

    async def ask() -> bytes:
        async with served() as port:
            idle = [await anyio.connect_tcp("127.0.0.1", port) for _ in range(30)]
            with anyio.fail_after(60):
                closed = 0
                for stream in idle[9:]:
                    try:
                        await stream.receive()
                    except (anyio.EndOfStream, anyio.BrokenResourceError):
                        closed += 1
                assert closed == 21
                for stream in idle:
                    await stream.aclose()
                got = b""
                while b"200" not in got:  # the server forgets closed connections in its own time
                    got = await answer_to(port, f"{HEAD}Connection: close\r\nContent-Length: 0\r\n\r\n")
                return got

    assert anyio.run(ask).endswith(b"in")


def test_a_quarter_of_the_descriptors_is_the_most_that_connections_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for soft, most in ((1024, 256), (65536, 512), (16, 8), (-1, 512)):
        monkeypatch.setattr(http_limits.resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert http_limits.most_connections() == most


FEW_FILES = """
import asyncio, resource, socket, sys
import uvicorn
from agents.model.http_auth import AuthMiddleware, server_config
from loop.api import http  # whatever a service loads
resource.setrlimit(resource.RLIMIT_NOFILE, (96, 96))
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"in"})
asyncio.run(uvicorn.Server(server_config(AuthMiddleware(app, token="t" * 43))).serve([listening]))
"""


def test_more_connections_than_descriptors_use_up_neither_descriptors_nor_the_event_loop(
    tmp_path: Path,
) -> None:
    """Each failed attempt to accept was logged, 28,000 of them, and the children of a frozen service hung."""
    log = tmp_path / "log"
    with log.open("w") as stream:
        command = [sys.executable, "-c", FEW_FILES]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, text=True)
    idle = []
    try:
        port = int(server.stdout.readline())  # type: ignore[union-attr]
        idle = [socket.create_connection(("127.0.0.1", port), 60) for _ in range(300)]
        kept = len(os.listdir(f"/proc/{server.pid}/fd"))
        for one in idle:
            one.close()
        head = f"{HEAD}Connection: close\r\nContent-Length: 0\r\n\r\n"
        small.wait_until(lambda: b" 200 OK" in anyio.run(answer_to, port, head), "it answers", 60)
        assert kept < 90 and "Too many open files" not in log.read_text()
    finally:
        for one in idle:
            one.close()
        server.kill()
        server.communicate()


def test_only_so_many_large_bodies_are_read_at_once() -> None:
    async def ask() -> list[int]:
        held, codes = anyio.Event(), list[int]()

        async def waits(scope: Any, receive: Any, send: Any) -> None:
            await held.wait()
            await app(scope, receive, send)

        guard = AuthMiddleware(waits, token=TOKEN)
        headers = [
            (b"host", b"nightschool"),
            (b"authorization", f"Bearer {TOKEN}".encode()),
            (b"content-length", b"2000000"),
        ]
        scope = {"type": "http", "path": "/x", "method": "POST", "headers": headers}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                codes.append(message["status"])

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(guard, dict(scope), receive, send)
            while len(codes) < 2:
                await anyio.lowlevel.checkpoint()
            held.set()
        return codes

    assert sorted(anyio.run(ask)) == [200] * 8 + [503] * 2


# ---------------------------------------------------------------- the real service


@pytest.mark.slow
def test_a_stopped_child_of_a_service_is_started_again_and_answers(tmp_path: Path) -> None:
    home = small.small_home(tmp_path / "home")
    service = small.start_service(home, tmp_path / "service.log")
    try:
        service.ready()
        for module in ("agents.model.embedded.server", "agents.trainer.process.main"):
            (child,) = [pid for pid in small_children(service.process.pid) if module in command_of(pid)]
            os.kill(child, signal.SIGSTOP)
            small.wait_until(lambda child=child: not command_of(child), "it is found", 6 * BUDGET_S)
            assert small.cli_json(home, "ask", "hello")["answer"]
    finally:
        service.process.terminate()
        service.process.wait(60)


def small_children(parent: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True)
    return [int(line) for line in listed.stdout.split()]


def command_of(pid: int) -> str:
    """Return the command line of a process; "" once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def test_deep_json_is_refused_as_bad_json(command: small.Command, tmp_path: Path) -> None:
    deep = "[" * 100_000
    with pytest.raises(RecursionError):
        json.loads(deep)
    file = tmp_path / "deep.jsonl"
    file.write_text(f'{deep}\n{{"messages": {deep}}}\n')
    assert command("--home", tmp_path / "home", "init").code == 0
    ran = command("--home", tmp_path / "home", "ingest", file)
    assert ran.code == 3 and "Traceback" not in ran.err


@pytest.mark.parametrize(
    "body, why",
    [
        (b"[" * 65 + b"]" * 65, "levels"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "levels"),
        (b"[" + b"[]," * MAX_BRACKETS + b"[]]", "lists and objects"),
        (b"[" + b"0," * (MAX_COMMAS + 1) + b"0]", "values"),
        (b"\x80", "codec"),
    ],
    ids=["deep", "very deep", "brackets", "values", "bytes"],
)
def test_a_body_beyond_the_bounds_is_refused_before_it_takes_memory(body: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(body)
    with pytest.raises(UsageError, match="the body is not JSON"):
        requests.parse_body(body)
    assert parse_request(body) == Refusal(word="request")


def test_a_body_within_the_bounds_is_read() -> None:
    assert parse(b"[" * 64 + b"]" * 64) and parse(b'{"a": [1, "[[[,,,"]}') == {"a": [1, "[[[,,,"]}


# ---------------------------------------------------------------- a vLLM of the user's own


class ForeignServer:
    """A vLLM's HTTP, scripted: whether it answers chats and its metrics, and what it counts."""

    def __init__(self) -> None:
        self.busy, self.tokens, self.chats, self.counts = 0.0, 0.0, True, True

    async def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/metrics":
            if not self.counts:
                await anyio.sleep_forever()
            text = f"vllm:num_requests_running {self.busy}\nvllm:generation_tokens_total {self.tokens}\n"
            return httpx.Response(200, text=text)
        if request.url.path == "/v1/chat/completions" and not self.chats:
            await anyio.sleep_forever()
        choice = {"message": {"content": "Hi"}, "finish_reason": "length"}
        return httpx.Response(200, json={"choices": [choice]})

    def client(self) -> ModelClient:
        http = httpx.AsyncClient(transport=httpx.MockTransport(self.answer), base_url="http://vllm")
        return ModelClient(http)


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> ForeignServer:
    for name, seconds in {"LOOK_S": 0.01, "ANSWER_S": 0.1, "SILENT_S": 0.05, "STUCK_S": 0.1}.items():
        monkeypatch.setattr(vllm_watch, name, seconds)
    return ForeignServer()


def test_a_vllm_that_answers_its_health_check_and_no_request_is_named(foreign: ForeignServer) -> None:
    assert anyio.run(vllm_watch.answers, foreign.client()) is True
    foreign.chats = False
    assert anyio.run(foreign.client().health) is True
    assert anyio.run(vllm_watch.answers, foreign.client()) is False


@pytest.mark.parametrize("how", ["busy and no progress", "no metrics"])
def test_a_vllm_that_stands_still_is_found(foreign: ForeignServer, how: str) -> None:
    foreign.busy, foreign.counts = 1.0, how != "no metrics"

    async def watch() -> None:
        with anyio.fail_after(60):
            await vllm_watch.wait_stuck(foreign.client())

    anyio.run(watch)


def test_a_vllm_that_works_rests_or_does_not_count_is_left_alone() -> None:
    working = [vllm_watch.Pulse(busy=3.0, done=(tokens, 0.0)) for tokens in (1.0, 2.0)]
    resting, silent = vllm_watch.Pulse(busy=0.0, done=(1.0,)), vllm_watch.Pulse(busy=3.0, done=())
    for before, now in ((None, working[0]), (working[0], working[1]), (resting, resting), (silent, silent)):
        assert not vllm_watch.stands_still(before, now)
    assert vllm_watch.stands_still(working[0], working[0])
    assert vllm_watch.pulse_of({"vllm:num_requests_running": 1.0}).done == ()
