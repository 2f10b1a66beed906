"""The service's ZMQ socket, through which the routes on a user's own vLLM call operations.

    verb        arguments              result
    train       {seed, retry}          {"night": id} of the night that it begins or that runs, at once
                {..., "dry_run": true} what a night would train on
    checkpoint  {}                     the active checkpoint, after a check of its files
    rollback    {target, dry_run}      the result of the command `rollback`, when it has ended
    status      {}                     the result of GET /status, and the trainer's status

`agents/model/protocol.py` defines the frames of a message. The socket is in the run directory, which only
this user can enter. Invariant: every message gets one result or error, and no message ends the service. An
operation continues when its caller disconnects. This module does not check who calls, because vLLM's plugin
does so.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import anyio
import structlog
import zmq
import zmq.asyncio
from anyio.abc import TaskGroup, TaskStatus
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agents.model import protocol
from agents.model.protocol import RpcReply, RpcRequest
from corpus.aliases import Json
from corpus.errors import IntegrityFault, NightschoolError, TrainerFault, UsageError
from corpus.json_edge import to_json
from loop.engine.scheduler import next_update_reason
from loop.operations.operations import Operations
from loop.operations.results.nights import DryRun, NightBegun, NightResult
from store import queries
from store.nights import report

PENDING = 64
"""Largest number of requests that are carried out at the same time. Further requests are refused."""
TRAINER_S = 2.0
"""Longest time in seconds that a status waits for the trainer's part of it."""


class Arguments(BaseModel):
    """The arguments of a verb that takes none, and the base class for other verbs' arguments."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TrainArguments(Arguments):
    """The arguments of the verb `train`."""

    seed: int | None = Field(None, description="a whole number or null")
    retry: bool = Field(False, description="true or false")
    dry_run: bool = Field(False, description="true or false")


class RollbackArguments(Arguments):
    """The arguments of the verb `rollback`."""

    target: str | None = Field(None, description="an id or null")
    dry_run: bool = Field(False, description="true or false")


ARGUMENTS: dict[str, type[Arguments]] = {
    "train": TrainArguments,
    "checkpoint": Arguments,
    "rollback": RollbackArguments,
    "status": Arguments,
}
"""The class of the arguments of each verb, by the verb's name."""

log = structlog.get_logger()


async def serve_rpc(
    operations: Operations, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Open the ZMQ socket and answer its requests until cancelled; report as started once it is open."""
    context = zmq.asyncio.Context()
    try:
        router: zmq.asyncio.Socket = context.socket(zmq.ROUTER)
        router.maxmsgsize = protocol.FRAME_BYTES
        router.bind(protocol.address(operations.service.home.run_dir, protocol.SERVICE_SOCKET_NAME))
        task_status.started()
        async with anyio.create_task_group() as tasks:
            server = RpcServer(operations, router, tasks)
            while True:
                server.receive(await router.recv_multipart())
    finally:
        context.destroy(linger=0)


class RpcServer:
    """Carries out requests as operations of one service, and sends the replies."""

    def __init__(self, operations: Operations, router: zmq.asyncio.Socket, tasks: TaskGroup) -> None:
        self._operations = operations
        self._service = operations.service
        self._router = router
        self._tasks = tasks
        self._pending = 0
        self._verbs: dict[str, Callable[..., Awaitable[Any]]] = {
            "train": self._train,
            "checkpoint": self._checkpoint,
            "rollback": operations.rollback,
            "status": self._status,
        }

    def receive(self, message: Sequence[bytes]) -> None:
        """Start a task that answers a message.

        message: the caller's address, then the frames of a request.
        """
        caller, *frames = message
        self._pending += 1
        self._tasks.start_soon(self._answer, caller, frames, name="answer a route")

    async def _answer(self, caller: bytes, frames: Sequence[bytes]) -> None:
        try:
            request = protocol.unpack_request(frames, self._verbs.keys())
            reply = RpcReply(id=request.id, kind="result", body=await self._perform(request))
        except Exception as error:  # no message may end the service
            if not isinstance(error, NightschoolError):
                log.exception("a request of vLLM's routes failed")
            reply = protocol.error_reply(protocol.request_id(frames) or "unknown", error)
        finally:
            self._pending -= 1
        await self._router.send_multipart([caller, *protocol.pack_reply(reply)])

    async def _perform(self, request: RpcRequest) -> Json:
        """Check the arguments of a request, carry it out and return the result as JSON."""
        if self._pending > PENDING:
            raise TrainerFault(
                f"the service is busy: {PENDING} requests wait; ask again when some are answered"
            )
        arguments = check_arguments(request.verb, request.body)
        result: Json = to_json(await self._verbs[request.verb](**arguments))
        return result

    async def _train(self, *, dry_run: bool = False, **more: Any) -> NightBegun | NightResult | DryRun:
        if dry_run:
            return await self._operations.night(dry_run=True, **more)
        return await self._operations.begin(**more)

    async def _checkpoint(self) -> Json:
        active = await self._service.ledger.read(queries.active)
        faults = await anyio.to_thread.run_sync(self._service.store.verify, [active.id])
        if faults:
            raise IntegrityFault(faults[0].problem)
        return {
            "checkpoint": active.id,
            "weights_sha256": active.weights_sha256,
            "number": active.number,
        }

    async def _status(self) -> Json:
        night = await self._service.ledger.read(queries.running_night)
        return {
            **to_json(await self._service.ledger.read(report.status)),
            "next_update_reason": await next_update_reason(self._service),
            "night": night.id if night else None,
            "trainer": await self._trainer(),
        }

    async def _trainer(self) -> Json | None:
        """Return the trainer's status as JSON; None if it does not run or does not answer in time."""
        if self._service.processes.ready.is_set():
            with anyio.move_on_after(TRAINER_S):
                try:
                    return asdict(await self._service.trainer.status())
                except TrainerFault as fault:
                    log.warning("the trainer reports no status", error=str(fault))
        return None


def check_arguments(verb: str, body: Mapping[str, Any]) -> Json:
    """Return the arguments in the body of a request; one that the verb does not take raises `UsageError`."""
    kind = ARGUMENTS[verb]
    try:
        return kind.model_validate(body).model_dump(exclude_unset=True)
    except ValidationError as error:
        takes = ", ".join(f"{name} ({field.description})" for name, field in kind.model_fields.items())
        name = error.errors()[0]["loc"][0]
        raise UsageError(f"{verb} takes {takes or 'nothing'}, not {name!r} as it was given") from error
