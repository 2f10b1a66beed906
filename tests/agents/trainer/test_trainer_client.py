"""The client against a scripted peer: late replies, lost replies, and replies to other requests."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio
import pytest
import zmq
import zmq.asyncio

from agents.model import protocol
from agents.model.protocol import RpcReply, RpcRequest
from agents.trainer.client import TrainerClient
from agents.trainer.messages import Status
from corpus.errors import TrainerFault

IDLE = Status(
    pid=1, doing="idle", paused=False, step=0, steps=0, version=1, dirty=False, holds="", replaced=False
)


class Peer:
    """A trainer's socket, played by the test."""

    def __init__(self, socket: zmq.asyncio.Socket) -> None:
        self._socket = socket
        self.askers: list[bytes] = []

    async def asked(self) -> RpcRequest:
        """Return the next request."""
        asker, *frames = await self._socket.recv_multipart()
        self.askers.append(asker)
        return protocol.unpack_request(frames)

    async def answer(self, request: RpcRequest, **body: Any) -> None:
        """Answer the sender of the last request."""
        reply = RpcReply(id=request.id, kind="result", body=body)
        await self._socket.send_multipart([self.askers[-1], *protocol.pack_reply(reply)])


def played(
    run_directory: Path,
    script: Callable[[Peer], Awaitable[Any]],
    call: Callable[[TrainerClient], Awaitable[Any]],
) -> Any:
    """Return the result of the client's call while the peer follows the script."""

    async def both() -> Any:
        with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as router:
            router.linger = 0
            router.bind(protocol.address(run_directory))
            async with TrainerClient(run_directory, beat=0.05) as client, anyio.create_task_group() as tasks:
                with anyio.fail_after(20):
                    tasks.start_soon(script, Peer(router))
                    return await call(client)

    return anyio.run(both)


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


def test_a_lost_result_is_requested_again(place: Path) -> None:
    async def script(trainer: Peer) -> None:
        first = await trainer.asked()
        alive = await trainer.asked()  # nothing came for a while
        assert alive.verb == "status" and alive.body == {"asking": first.id}
        await trainer.answer(alive, known=True, done=True)
        again = await trainer.asked()
        assert (again.id, again.verb, again.body) == (first.id, first.verb, first.body)
        await trainer.answer(again, written=True, version=7)

    assert played(place, script, lambda client: client.rollback("ab", settled=True)) == 7


def test_a_trainer_that_does_not_know_the_request_is_reported_as_restarted(place: Path) -> None:
    async def script(trainer: Peer) -> None:
        await trainer.asked()
        await trainer.answer(await trainer.asked(), known=False, done=False)

    async def call(client: TrainerClient) -> str:
        with pytest.raises(TrainerFault) as fault:
            await client.rollback("ab", settled=True)
        return str(fault.value)

    assert "was restarted during 'rollback'" in played(place, script, call)


def test_quick_requests_share_one_socket_and_late_replies_are_ignored(place: Path) -> None:
    askers: list[bytes] = []

    async def script(trainer: Peer) -> None:
        first, alive = await trainer.asked(), await trainer.asked()
        await trainer.answer(first, **asdict(IDLE))
        await trainer.answer(alive, known=True, done=False)  # when the first question has its answer already
        await trainer.answer(await trainer.asked(), training=True)
        await trainer.answer(await trainer.asked(), **asdict(IDLE))
        askers.extend(trainer.askers)

    async def call(client: TrainerClient) -> list[Any]:
        return [await client.status(), await client.pause(), await client.status()]

    assert played(place, script, call) == [IDLE, True, IDLE]
    assert len(set(askers)) == 1


def test_a_cancelled_request_leaves_no_socket_for_its_reply(place: Path) -> None:
    askers: list[bytes] = []
    heard = anyio.Event()

    async def script(trainer: Peer) -> None:
        await trainer.asked()
        heard.set()
        while (asked := await trainer.asked()).body:  # signs of life of the question that is given up
            pass
        await trainer.answer(asked, **asdict(IDLE))
        askers.extend({trainer.askers[0], trainer.askers[-1]})

    async def call(client: TrainerClient) -> Status:
        async with anyio.create_task_group() as tasks:

            async def give_up() -> None:
                await heard.wait()  # however long the request takes to arrive on a busy machine
                tasks.cancel_scope.cancel()

            tasks.start_soon(give_up)
            await client.status()
        assert tasks.cancel_scope.cancelled_caught
        return await client.status()

    assert played(place, script, call) == IDLE
    assert len(askers) == 2
