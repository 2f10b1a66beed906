"""The service's side of the trainer's socket.

Each call that the trainer works on opens a socket of its own and closes it, so a cancelled call leaves nothing
behind; what is answered at once (`status` and orders, also while an update runs) shares one that is kept. While
a call waits, the trainer is asked every few seconds whether it still has the request: a trainer that was
restarted has not.

Invariant: a call ends with a result, an error of our tree, or cancellation; a trainer that gives no sign of
life for `patience` seconds is a `TrainerFault`. Knows no torch, no ledger and no tokenizer.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import zmq
import zmq.asyncio

from agents.model import protocol
from agents.model.protocol import RpcReply, RpcRequest
from agents.model.steering.wire import Direction
from agents.trainer.activation_requests import Activations, unpack
from agents.trainer.messages import (
    CheckpointResult,
    LogProb,
    Status,
    StepReport,
    TrainRequest,
    TrainResult,
    load,
    pack_tokens,
    pack_train,
)
from corpus.errors import TrainerFault
from store.task_vectors.recipe import Extent, Part

BEAT_S = 2.0
"""Seconds between two questions for a sign of life."""
PATIENCE_S = 60.0
"""Seconds without a sign of life after which the trainer counts as gone; it needs some 15 to start."""

OnStep = Callable[[StepReport], None]


class TrainerClient:
    """Talks to the trainer of one run directory; needs the asyncio backend of anyio."""

    def __init__(self, run_directory: Path, *, patience: float = PATIENCE_S, beat: float = BEAT_S) -> None:
        self._address = protocol.address(run_directory)
        self._patience = patience
        self._beat = beat
        self._context = zmq.asyncio.Context()
        self._kept: zmq.asyncio.Socket | None = None
        """For what is answered at once; taken while it is in use."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every socket; calls in flight end with an error."""
        self._context.destroy(linger=0)

    async def train(
        self, request: TrainRequest, on_step: OnStep | None = None, *, request_id: str | None = None
    ) -> TrainResult:
        """Make an update in the mapping; `StepRefused` when a step was refused and the parent restored,
        `UpdateCancelled` when `cancel` ended it. A dry run only computes its steps, and changes nothing.

        A cancelled call does not stop the update: ask again under the same `request_id` to get its result.
        """
        body, frames = pack_train(request)
        reply = await self._ask("train", body, frames, on_step=on_step, request_id=request_id)
        return load(TrainResult, {**reply.body, "reports": _reports(reply.body["reports"])})

    async def merge(
        self,
        parent: str,
        parts: Sequence[Part],
        *,
        method: str,
        density: float,
        request_id: str | None = None,
    ) -> Extent:
        """Add task vectors to the parent's weights, in the mapping, where a `checkpoint` makes it durable; returns
        how much that moved them. `GateRefused` when the result is not finite, and the parent was restored.
        """
        body: dict[str, Any] = {"parent": parent, "method": method, "density": density}
        body |= {"parts": [[part.start, part.end, part.weight] for part in parts]}
        return load(Extent, (await self._ask("merge", body, request_id=request_id)).body)

    async def checkpoint(
        self, parent: str | None, fields: Mapping[str, Any], *, request_id: str | None = None
    ) -> CheckpointResult:
        """Write what the mapping holds as a checkpoint; `fields` holds no time, uuid or path.

        With a parent: the update of that parent that `train` or `merge` just made. With None: the first checkpoint.
        """
        body = {"parent": parent, "fields": dict(fields)}
        return load(CheckpointResult, (await self._ask("checkpoint", body, request_id=request_id)).body)

    async def rollback(self, checkpoint_id: str, *, settled: bool, request_id: str | None = None) -> int:
        """Make the mapping hold exactly this checkpoint; returns the mapping's version.

        `settled`: it is the active checkpoint, and the mapping is clean afterwards.
        """
        body = {"checkpoint": checkpoint_id, "settled": settled}
        return int((await self._ask("rollback", body, request_id=request_id)).body["version"])

    async def settle(self, checkpoint_id: str, *, request_id: str | None = None) -> int:
        """Say that the checkpoint in the mapping is now the active one; returns the mapping's version."""
        body = {"checkpoint": checkpoint_id}
        return int((await self._ask("settle", body, request_id=request_id)).body["version"])

    async def logprobs(
        self, items: Sequence[tuple[Sequence[int], Sequence[int]]], steer: Sequence[Direction] = ()
    ) -> list[LogProb]:
        """The log-probability of each continuation, given its context: (context, continuation) token ids.

        `steer`: as the model would give them while it is steered so.
        """
        frames = [*(one.data for one in steer), *(pack_tokens(side) for item in items for side in item)]
        body = (
            await self._ask("logprobs", {"steer": [one.layer for one in steer]} if steer else {}, frames)
        ).body
        return [LogProb(total=t, tokens=n) for t, n in zip(body["totals"], body["tokens"], strict=True)]

    async def activations(
        self, texts: Sequence[Sequence[int]], layers: Sequence[int], heads: Sequence[int] = ()
    ) -> Activations:
        """The residual stream after these layers (from 0) at the last token of each text, and what attention hands
        to its output projection there in the layers named in `heads`. No layer past the deepest is computed."""
        frames = [pack_tokens(text) for text in texts]
        reply = await self._ask("activations", {"layers": list(layers), "heads": list(heads)}, frames)
        return unpack(reply.body, reply.frames, layers)

    async def status(self) -> Status:
        """What the trainer is doing; answered even in mid-step. The first call waits for its start."""
        return load(Status, (await self._quick("status", {})).body)

    async def pause(self) -> bool:
        """Have the update in hand wait before its next step; returns whether there is one. No later one waits."""
        return bool((await self._quick("pause", {})).body["training"])

    async def resume(self) -> bool:
        """Have the update that was paused go on; returns whether there is one."""
        return bool((await self._quick("resume", {})).body["training"])

    async def cancel(self, reason: str) -> bool:
        """Have the update in hand end before its next step, undone; returns whether there is one.

        One whose last step was made already may still end with its result.
        """
        return bool((await self._quick("cancel", {"reason": reason})).body["training"])

    async def stop(self) -> None:
        """Have the trainer undo the step in flight, if any, and end."""
        await self._ask("stop", {})

    async def _ask(
        self,
        verb: str,
        body: dict[str, Any],
        frames: Sequence[bytes] = (),
        *,
        on_step: OnStep | None = None,
        request_id: str | None = None,
    ) -> RpcReply:
        """Send one request and wait for its result, with signs of life in between."""
        request = RpcRequest(id=request_id or uuid4().hex, verb=verb, body=body, frames=frames)
        socket = self._connected()
        try:
            return await self._wait(socket, request, on_step)
        finally:
            socket.close(linger=0)

    async def _quick(self, verb: str, body: dict[str, Any]) -> RpcReply:
        """As `_ask`, for what is answered at once: over the kept socket, which a call that fails closes."""
        socket, self._kept = self._kept or self._connected(), None
        try:
            reply = await self._wait(socket, RpcRequest(id=uuid4().hex, verb=verb, body=body), None)
        except BaseException:
            socket.close(linger=0)
            raise
        if self._kept is None:
            self._kept = socket
        else:  # two calls at once
            socket.close(linger=0)
        return reply

    def _connected(self) -> zmq.asyncio.Socket:
        socket: zmq.asyncio.Socket = self._context.socket(zmq.DEALER)
        socket.linger = 0
        socket.connect(self._address)
        return socket

    async def _wait(
        self, socket: zmq.asyncio.Socket, request: RpcRequest, on_step: OnStep | None
    ) -> RpcReply:
        """Send this request and wait for its result; its progress goes to `on_step`."""
        frames = protocol.pack_request(request)
        alive = RpcRequest(id=f"{request.id}/alive", verb="status", body={"asking": request.id})
        await socket.send_multipart(frames)
        heard = time.monotonic()
        while True:
            if not await socket.poll(int(self._beat * 1000)):
                if time.monotonic() - heard > self._patience:
                    raise TrainerFault(
                        f"the trainer gave no sign of life for {self._patience:.0f} s in {request.verb!r}; "
                        "see its log, then restart the service"
                    )
                await socket.send_multipart(protocol.pack_request(alive))
                continue
            heard = time.monotonic()
            reply = protocol.unpack_reply(await socket.recv_multipart())
            if reply.id == alive.id and reply.kind == "result":
                # Replies come in order: a result sent before this one would have been here.
                if not reply.body["known"]:
                    raise TrainerFault(f"the trainer was restarted during {request.verb!r}; ask again")
                if reply.body["done"]:  # it was dropped, because we read too slowly; it is remembered
                    await socket.send_multipart(frames)
            elif reply.kind == "error" and reply.id in (request.id, alive.id, "unknown"):
                raise protocol.error_of(reply)
            elif reply.id == request.id and reply.kind == "result":
                return reply
            elif reply.id == request.id and on_step is not None:
                on_step(load(StepReport, reply.body))


def _reports(bodies: Sequence[Mapping[str, Any]]) -> list[StepReport]:
    return [load(StepReport, body) for body in bodies]
