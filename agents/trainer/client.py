"""The service's side of the trainer's socket.

Each long request opens a socket of its own and closes it, so a cancelled call leaves no socket open. The
requests that the trainer answers at once, even during an update, share one socket: `status`, `pause`,
`resume` and `cancel`. While a call waits, the client asks the trainer every few seconds whether it still
knows the request, because a trainer that was restarted has lost it.

Invariant: a call ends with a result, an error of `corpus.errors`, or cancellation. If the trainer does not
answer for `patience` seconds, the call raises `TrainerFault`. This module knows nothing about torch, the
ledger or tokenizers.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from uuid import uuid4

import zmq
import zmq.asyncio

from agents.model import meter, protocol
from agents.model.internals import Activations, LogProb
from agents.model.protocol import RpcReply, RpcRequest
from agents.model.steering.wire import Direction
from agents.trainer import wire
from agents.trainer.messages import CheckpointResult, Status, StepReport, TrainRequest, TrainResult
from agents.trainer.wire import load, pack_tokens
from corpus.aliases import Json
from corpus.errors import TrainerFault

BEAT_S = 2.0
"""Seconds between two checks of whether the trainer still answers."""
PATIENCE_S = 60.0
"""Seconds without an answer after which the trainer counts as dead; it needs about 15 to start."""

OnStep = Callable[[StepReport], None]


class TrainerClient:
    """A client of the trainer whose socket is in `run_directory`; needs the asyncio backend of anyio."""

    def __init__(self, run_directory: Path, *, patience: float = PATIENCE_S, beat: float = BEAT_S) -> None:
        self._address = protocol.address(run_directory)
        self._patience = patience
        self._beat = beat
        self._context = zmq.asyncio.Context()
        self._idle: zmq.asyncio.Socket | None = None
        """The socket for requests that are answered at once; None while one of them uses it."""

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
        """Run an update in the shared weights, or a dry run, which changes nothing; return the result.

        If this call is cancelled, the update goes on. A new call with the same `request_id` returns its
        result.

        Args:
            request: The update or dry run.
            on_step: Called with the report on each completed step.
            request_id: Id of an earlier call whose result is wanted; None for a new request.

        Raises:
            StepRefused: a step was refused, and the parent's weights are restored.
            UpdateCancelled: A call of `cancel` ended the update.
        """
        body, frames = wire.pack_train(request)
        reply = await self._ask("train", body, frames, on_step=on_step, request_id=request_id)
        return load(TrainResult, reply.body)

    async def merge(
        self,
        parent: str,
        parts: Sequence[wire.MergePart],
        *,
        method: Literal["arithmetic", "ties"],
        density: float,
        request_id: str | None = None,
    ) -> wire.MergeResult:
        """Add task vectors to the parent's weights, in the shared weights; return the size of the change.

        Call `checkpoint` afterwards to save the result.

        Args:
            parent: Id of the parent checkpoint.
            parts: Start checkpoint, end checkpoint and weight of each task vector.
            method: How the task vectors are combined.
            density: Share of each task vector's elements that `ties` keeps.
            request_id: Id of an earlier call whose result is wanted; None for a new request.

        Raises:
            GateRefused: the result is not finite, and the parent's weights are restored.
        """
        body = wire.MergeBody(parent=parent, method=method, density=density, parts=tuple(parts))
        return load(wire.MergeResult, (await self._ask("merge", asdict(body), request_id=request_id)).body)

    async def checkpoint(
        self, parent: str | None, fields: Mapping[str, Any], *, request_id: str | None = None
    ) -> CheckpointResult:
        """Write the shared weights as a checkpoint; return its id, digests and size.

        Args:
            parent: Parent of the update that `train` or `merge` just made; None for the first checkpoint.
            fields: Further fields of the manifest. They must hold no time, uuid or path.
            request_id: Id of an earlier call whose result is wanted; None for a new request.
        """
        body = wire.CheckpointBody(parent=parent, fields=dict(fields))
        return load(
            CheckpointResult, (await self._ask("checkpoint", asdict(body), request_id=request_id)).body
        )

    async def rollback(self, checkpoint_id: str, *, settled: bool, request_id: str | None = None) -> int:
        """Restore this checkpoint's weights in the shared weights; return the version of the shared weights.

        `settled`: whether this checkpoint is the active one. If so, the shared weights are marked clean.
        """
        body = wire.RollbackBody(checkpoint=checkpoint_id, settled=settled)
        reply = await self._ask("rollback", asdict(body), request_id=request_id)
        return load(wire.RollbackResult, reply.body).version

    async def settle(self, checkpoint_id: str, *, request_id: str | None = None) -> int:
        """Mark the checkpoint in the shared weights as the active one; return the shared weights' version."""
        body = wire.SettleBody(checkpoint=checkpoint_id)
        reply = await self._ask("settle", asdict(body), request_id=request_id)
        return load(wire.SettleResult, reply.body).version

    async def logprobs(
        self,
        items: Sequence[tuple[Sequence[int], Sequence[int]]],
        steer: Sequence[Direction] = (),
        *,
        exact: bool = True,
    ) -> list[LogProb]:
        """Return the log-probability of each continuation, given its context.

        Args:
            items: Token ids of each context and its continuation.
            steer: Directions that the model is steered by during this call.
            exact: Whether products have the weights' type; a large model reads faster if they need not.
        """
        meter.count(read=sum(len(context) + len(continuation) for context, continuation in items))
        frames = [*(one.data for one in steer), *(pack_tokens(side) for item in items for side in item)]
        body = wire.LogprobsBody(steer=tuple(one.layer for one in steer), exact=exact)
        scores = load(wire.LogprobsResult, (await self._ask("logprobs", asdict(body), frames)).body)
        return [LogProb(total=t, tokens=n) for t, n in zip(scores.totals, scores.tokens, strict=True)]

    async def activations(
        self, texts: Sequence[Sequence[int]], layers: Sequence[int], heads: Sequence[int] = ()
    ) -> Activations:
        """Return the residual stream after these layers (from 0) at the last token of each text.

        For the layers in `heads`, the result also holds the input of attention's output projection. Layers
        after the deepest requested one are not computed.
        """
        meter.count(read=sum(map(len, texts)))
        body = wire.ActivationsBody(layers=tuple(layers), heads=tuple(heads))
        reply = await self._ask("activations", asdict(body), [pack_tokens(text) for text in texts])
        return wire.unpack_activations(reply.body, reply.frames, layers)

    async def status(self) -> Status:
        """Return the trainer's current state, even in mid-step.

        The first call waits until the trainer has started.
        """
        return load(Status, (await self._quick("status", {})).body)

    async def pause(self) -> bool:
        """Pause the current update before its next step; return whether an update is in progress."""
        return await self._order("pause", {})

    async def resume(self) -> bool:
        """Resume the paused update; return whether an update is in progress."""
        return await self._order("resume", {})

    async def cancel(self, reason: str) -> bool:
        """End the current update before its next step and undo it; return whether an update is in progress.

        An update whose last step is complete may still end with a result.
        """
        return await self._order("cancel", {"reason": reason})

    async def stop(self) -> None:
        """Tell the trainer to undo the update in progress, if there is one, and to exit."""
        await self._ask("stop", {})

    async def _order(self, verb: str, body: Json) -> bool:
        return load(wire.OrderResult, (await self._quick(verb, body)).body).training

    async def _ask(
        self,
        verb: str,
        body: Json,
        frames: Sequence[bytes] = (),
        *,
        on_step: OnStep | None = None,
        request_id: str | None = None,
    ) -> RpcReply:
        """Send one request and return the reply with its result; meanwhile check that the trainer answers."""
        request = RpcRequest(id=request_id or uuid4().hex, verb=verb, body=body, frames=frames)
        socket = self._connected()
        try:
            return await self._wait(socket, request, on_step)
        finally:
            socket.close(linger=0)

    async def _quick(self, verb: str, body: Json) -> RpcReply:
        """Send a request over the shared socket and return the reply; if the call fails, close the socket."""
        socket, self._idle = self._idle or self._connected(), None
        try:
            reply = await self._wait(socket, RpcRequest(id=uuid4().hex, verb=verb, body=body), None)
        except BaseException:
            socket.close(linger=0)
            raise
        if self._idle is None:
            self._idle = socket
        else:  # another call at the same time has left its socket already
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
        """Send this request and return the reply with its result.

        `on_step` is called with the report on each completed step.
        """
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
                # Replies arrive in order: a result that was sent before this reply would be here already.
                request_status = load(wire.RequestStatus, reply.body)
                if not request_status.known:
                    raise TrainerFault(f"the trainer was restarted during {request.verb!r}; ask again")
                if (
                    request_status.done
                ):  # this client read too slowly: its result was dropped, but the trainer has it
                    await socket.send_multipart(frames)
            elif reply.kind == "error" and reply.id in (request.id, alive.id, "unknown"):
                raise protocol.error_of(reply)
            elif reply.id == request.id and reply.kind == "result":
                return reply
            elif reply.id == request.id and on_step is not None:
                on_step(load(StepReport, reply.body))
