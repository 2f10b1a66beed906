"""The way from vLLM's routes to the service of the home: one request over ZMQ, answered or given up in time.

Invariant: nothing here blocks the event loop, however long the service takes; a request ends with a result or an error
of our tree. What a service began goes on when nobody waits for it. Knows no verb's meaning.
"""

import asyncio
import socket
from pathlib import Path
from uuid import uuid4

import zmq
import zmq.asyncio

from agents.model import protocol
from agents.model.protocol import RpcRequest
from corpus.aliases import Json
from corpus.errors import ServiceAway
from store.home import Home

BEAT_S = 2.0
"""Between two looks whether the service that is to answer is still there."""


class ServiceClient:
    """Asks the service of one home; keeps nothing between two requests."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._place: Path = home.run_dir / protocol.SERVICE_SOCKET_NAME

    @property
    def is_up(self) -> bool:
        """Whether a service listens."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            try:
                probe.connect(str(self._place))
            except BlockingIOError:  # it has much to do
                return True
            except OSError:  # nothing there, or what a killed service left
                return False
        return True

    def _inode(self) -> int | None:
        try:
            return self._place.stat().st_ino
        except FileNotFoundError:
            return None

    async def ask(self, verb: str, body: Json, *, seconds: float) -> Json:
        """What the service makes of this request, within so many seconds."""
        if not self.is_up:
            raise ServiceAway(
                f"no service runs for {self._home.path}: start it with `nightschool run`, then ask again"
            )
        request = RpcRequest(id=uuid4().hex, verb=verb, body=body)
        try:
            async with asyncio.timeout(seconds):
                reply = await self._reply(protocol.pack_request(request))
        except TimeoutError:
            raise ServiceAway(
                f"the service did not answer {verb} within {seconds:.0f} s; what it began goes on: see its log"
            ) from None
        if reply.kind == "error":
            raise protocol.error_of(reply)
        return dict(reply.body)

    async def _reply(self, frames: list[bytes]) -> protocol.RpcReply:
        """The one reply to these frames: the socket is theirs alone."""
        context = zmq.asyncio.Context()
        try:
            dealer: zmq.asyncio.Socket = context.socket(zmq.DEALER)
            asked = self._inode()
            dealer.connect(protocol.address(self._home.run_dir, protocol.SERVICE_SOCKET_NAME))
            await dealer.send_multipart(frames)
            while not await dealer.poll(int(BEAT_S * 1000)):
                if (
                    not self.is_up or self._inode() != asked
                ):  # one that was started meanwhile knows nothing of it
                    raise ServiceAway(
                        "the service went away meanwhile: what it had begun goes on when it is back"
                    )
            return protocol.unpack_reply(await dealer.recv_multipart())
        finally:
            context.destroy(linger=0)
