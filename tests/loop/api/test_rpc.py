"""The service's ZMQ socket, used as vLLM's routes use it: real sockets, a real home, no model."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import zmq
import zmq.asyncio
from small import run_cli, small_home

from agents.model import protocol
from agents.model.protocol import RpcReply, RpcRequest
from agents.model.vllm.routes.service import ServiceClient
from corpus.errors import (
    GateRefused,
    IntegrityFault,
    NightschoolError,
    ServiceAway,
    TrainerFault,
    UnknownId,
    UsageError,
)
from loop.api.rpc import serve_rpc
from loop.config import load_settings
from loop.engine.service import opened
from loop.operations.operations import Operations
from store import queries
from store.home import Home

ASK_S = 20.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(small_home(tmp_path_factory.mktemp("open_socket") / "home"))


@asynccontextmanager
async def open_socket(home: Home) -> AsyncIterator[Operations]:
    """Serve the socket of a service that has no child processes and does no work."""
    async with opened(home, load_settings(home.config_file)) as service, anyio.create_task_group() as tasks:
        operations = Operations(service=service)
        await tasks.start(serve_rpc, operations)
        yield operations
        tasks.cancel_scope.cancel()


def request(home: Home, verb: str, **body: Any) -> Any:
    """Return the reply to one request, or raise its error."""

    async def ask() -> Any:
        async with open_socket(home):
            try:
                return await ServiceClient(home).ask(verb, body, seconds=ASK_S)
            except NightschoolError as refused:
                return refused

    if isinstance(reply := anyio.run(ask), NightschoolError):
        raise reply
    return reply


def raw(home: Home, *messages: list[bytes]) -> list[RpcReply]:
    """Return the replies to messages that are sent unchanged, one after the other."""

    async def ask() -> list[RpcReply]:
        context = zmq.asyncio.Context()
        async with open_socket(home):
            dealer = context.socket(zmq.DEALER)
            dealer.connect(protocol.address(home.run_dir, protocol.SERVICE_SOCKET_NAME))
            replies = []
            with anyio.fail_after(ASK_S):
                for message in messages:
                    await dealer.send_multipart(message)
                    replies.append(protocol.unpack_reply(await dealer.recv_multipart()))
            dealer.close(linger=0)
        context.term()
        return replies

    return anyio.run(ask)


def test_status_shows_the_state_of_the_home_and_why_no_night_is_due(home: Home) -> None:
    status = request(home, "status")
    assert status["trainer"] is None and status["night"] is None and status["next_update_reason"]
    assert status["checkpoint"] and status["last_night"] is None


def test_the_active_checkpoint_is_named_and_its_files_are_verified(home: Home) -> None:
    checkpoint = request(home, "checkpoint")
    assert checkpoint.keys() == {"checkpoint", "weights_sha256", "number"} and checkpoint["number"] == 0
    (blob,) = (home.checkpoints / "blobs").glob(f"{checkpoint['weights_sha256']}.*")
    content = blob.read_bytes()
    try:
        blob.chmod(0o600)
        blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(IntegrityFault, match="roll back to another"):
            request(home, "checkpoint")
    finally:
        blob.write_bytes(content)
    assert request(home, "checkpoint") == checkpoint


def test_a_rollback_equals_that_of_the_command(home: Home) -> None:
    with pytest.raises(GateRefused, match="nothing before it"):
        request(home, "rollback")
    with pytest.raises(UnknownId):
        request(home, "rollback", target="nonsense")
    active = request(home, "status")["checkpoint"]
    reply = request(home, "rollback", target=active, dry_run=True)
    assert reply["to"] == active and reply["dry_run"] is True
    assert reply == run_cli(home.path, "rollback", active, "--dry-run", "--json").result


def test_a_night_begins_in_the_background_and_only_once(tmp_path: Path) -> None:
    home = Home(small_home(tmp_path / "home"))

    async def ask() -> None:
        async with open_socket(home) as operations:
            service = ServiceClient(home)
            assert await service.ask("train", {"seed": 7}, seconds=ASK_S) == {"night": "n1"}
            night = await operations.service.ledger.read(queries.running_night)
            assert (night.id, night.seed, night.retry) == ("n1", 7, False)
            assert await service.ask("train", {"retry": True}, seconds=ASK_S) == {"night": "n1"}
            assert (await service.ask("status", {}, seconds=ASK_S))["night"] == "n1"

    anyio.run(ask)


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("train", {"seed": "7"}),
        ("train", {"seed": -1}),
        ("train", {"seed": True}),
        ("train", {"retry": 1}),
        ("train", {"now": True}),
        ("rollback", {"target": 3}),
        ("rollback", {"target": ""}),
        ("rollback", {"service": "x"}),
        ("checkpoint", {"id": "x"}),
        ("status", {"verbose": True}),
    ],
)
def test_arguments_that_a_verb_does_not_take_are_refused_with_a_sentence(
    home: Home, verb: str, body: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):
        request(home, verb, **body)


def test_a_malformed_message_is_answered_and_so_is_the_next_request(home: Home) -> None:
    good = protocol.pack_request(RpcRequest(id="good", verb="status", body={}))
    no_json, no_verb, pause, headless = (
        [b"\xff"],
        [b'{"id": "x"}'],
        [good[0].replace(b"status", b"pause")],
        [b"", b""],
    )
    replies = raw(home, no_json, no_verb, pause, headless, [b"1" * 10_000], good)
    assert [reply.kind for reply in replies] == ["error"] * 5 + ["result"]
    assert [reply.id for reply in replies] == ["unknown", "x", "good", "unknown", "unknown", "good"]
    assert all(isinstance(protocol.error_of(reply), TrainerFault) for reply in replies[:-1])


def test_a_caller_that_disconnects_does_not_stop_its_night(tmp_path: Path) -> None:
    home = Home(small_home(tmp_path / "home"))

    async def ask() -> Any:
        context = zmq.asyncio.Context()
        async with open_socket(home) as operations:
            dealer = context.socket(zmq.DEALER)
            dealer.connect(protocol.address(home.run_dir, protocol.SERVICE_SOCKET_NAME))
            await dealer.send_multipart(protocol.pack_request(RpcRequest(id="1", verb="train", body={})))
            dealer.close(linger=1000)
            await anyio.to_thread.run_sync(context.term)
            return await running_night(operations)

    assert anyio.run(ask) == "n1"


async def running_night(operations: Operations) -> str:
    """Return the id of the running night, once there is one."""
    for _ in range(2000):
        if night := await operations.service.ledger.read(queries.running_night):
            return str(night.id)
        await anyio.sleep(0.01)
    raise AssertionError("no night was begun")


async def unanswered(home: Home, ask: Callable[[ServiceClient], Awaitable[Any]]) -> Any:
    """Return the result of a call to a service that listens and never answers."""
    context = zmq.asyncio.Context()
    router = context.socket(zmq.ROUTER)
    home.run_dir.mkdir(mode=0o700)
    try:
        router.bind(protocol.address(home.run_dir, protocol.SERVICE_SOCKET_NAME))
        return await ask(ServiceClient(home))
    finally:
        context.destroy(linger=0)
        for left in home.run_dir.iterdir():
            left.unlink()
        home.run_dir.rmdir()


def test_an_absent_a_dead_and_a_silent_service_are_reported_as_away(tmp_path: Path) -> None:
    home = Home(tmp_path)

    async def ask(service: ServiceClient) -> NightschoolError:
        with pytest.raises(ServiceAway) as refused:
            await service.ask("status", {}, seconds=0.2)
        return refused.value

    assert "nightschool run" in str(anyio.run(ask, ServiceClient(home)))
    assert "did not answer" in str(anyio.run(unanswered, home, ask))
    home.run_dir.mkdir(mode=0o700)
    try:
        with socket.socket(socket.AF_UNIX) as killed:  # a service that was killed takes nothing away
            killed.bind(str(home.run_dir / protocol.SERVICE_SOCKET_NAME))
        assert not ServiceClient(home).is_up
    finally:
        (home.run_dir / protocol.SERVICE_SOCKET_NAME).unlink()
        home.run_dir.rmdir()
