"""The client with which vLLM's routes send requests to the home's service over ZMQ, with a time limit.

Invariant: nothing here blocks the event loop, however long the service takes. A request ends with a result or
with an error of `corpus.errors`. The service continues its work when the client no longer waits. This module
knows nothing about verbs.
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
"""Seconds between two checks that the service is still running."""


class ServiceClient:
    """The client of one home's service; it keeps no state between two requests."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._socket: Path = home.run_dir / protocol.SERVICE_SOCKET_NAME

    @property
    def is_up(self) -> bool:
        """Whether a service listens on the socket."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            try:
                probe.connect(str(self._socket))
            except BlockingIOError:  # the service listens, but its queue is full
                return True
            except OSError:  # no socket, or the socket of a killed service
                return False
        return True

    def _inode(self) -> int | None:
        try:
            return self._socket.stat().st_ino
        except FileNotFoundError:
            return None

    async def ask(self, verb: str, body: Json, *, seconds: float) -> Json:
        """Send a request to the service and return its result.

        Args:
            verb: The verb of the request.
            body: The body of the request.
            seconds: Longest wait for the result.

        Raises:
            ServiceAway: No service runs, it stopped meanwhile, or it did not answer in time.
            NightschoolError: The error that the service replied with.
        """
        if not self.is_up:
            raise ServiceAway(
                f"no service runs for {self._home.path}: start it with `nightschool run`, then try again"
            )
        request = RpcRequest(id=uuid4().hex, verb=verb, body=body)
        try:
            async with asyncio.timeout(seconds):
                reply = await self._reply(protocol.pack_request(request))
        except TimeoutError:
            raise ServiceAway(
                f"the service did not answer {verb} within {seconds:.0f} s; its work continues: see its log"
            ) from None
        if reply.kind == "error":
            raise protocol.error_of(reply)
        return dict(reply.body)

    async def _reply(self, frames: list[bytes]) -> protocol.RpcReply:
        """Send a request's frames over a new socket, and return the service's reply."""
        context = zmq.asyncio.Context()
        try:
            dealer: zmq.asyncio.Socket = context.socket(zmq.DEALER)
            inode = self._inode()
            dealer.connect(protocol.address(self._home.run_dir, protocol.SERVICE_SOCKET_NAME))
            await dealer.send_multipart(frames)
            while not await dealer.poll(int(BEAT_S * 1000)):
                if not self.is_up or self._inode() != inode:  # another service does not know the request
                    raise ServiceAway(
                        "the service has stopped meanwhile: its work continues when it is started again"
                    )
            return protocol.unpack_reply(await dealer.recv_multipart())
        finally:
            context.destroy(linger=0)
