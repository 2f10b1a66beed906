"""The service's HTTP interface: operations for the command line, and the served model for users.

    POST /do/{operation}       start an operation; the body is a JSON object of arguments, and the response
                               is JSON lines: first progress, then the result or an error
    GET  /status               the state of the home
    GET  /receipts/{receipt}   the state of a captured exchange
    POST /v1/chat/completions  passed on to the served model, and captured
    GET  /v1/models            passed on to the served model

The routes are served on the home's unix socket and on loopback, after a check of token, Host and Origin.
Invariant: an operation continues when its caller disconnects, and the ledger records how it ended.
"""

import inspect
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import anyio
import structlog
import uvicorn
from anyio.abc import TaskGroup
from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from agents.model.http_auth import AuthMiddleware, server_config
from corpus.aliases import Json
from corpus.errors import NightschoolError, UsageError
from corpus.json_edge import parse, to_json
from loop.api.proxy import PATHS, Proxy
from loop.capture.log import Capture
from loop.engine.scheduler import next_update_reason
from loop.operations.operations import NAMES, Operations
from loop.operations.results.home import ServiceStatus
from store import belonging
from store.conversations import privacy
from store.nights import report

CHAT_PATHS = ("/v1/chat/completions", "/v1/models", "/receipts/")
"""The beginnings of the paths that the home's token for chats opens."""

log = structlog.get_logger()


class Routes:
    """The HTTP routes of a service. Operations run in the service's task group, not in that of a request."""

    def __init__(self, operations: Operations, tasks: TaskGroup, capture: Capture) -> None:
        self._operations = operations
        self._service = operations.service
        self._tasks = tasks
        self._capture = capture

    def app(self) -> Starlette:
        """Return the ASGI application. It checks no credentials, so it is wrapped in `AuthMiddleware`."""
        proxy = Proxy(self._service, self._capture)
        return Starlette(
            routes=[
                Route("/do/{operation}", self._do, methods=["POST"]),
                Route("/status", self._status),
                Route("/receipts/{receipt}", self._receipt),
                Route("/v1/chat/completions", proxy.chat, methods=["POST"]),
                Route("/v1/models", proxy.models),
            ]
        )

    async def _do(self, request: Request) -> Response:
        """Start an operation, and return a response that streams its progress, then its result or error."""
        name = request.path_params["operation"]
        try:
            arguments = parse(await request.body() or b"{}")
        except ValueError:
            arguments = None
        if name not in NAMES or not isinstance(arguments, dict):
            return JSONResponse(
                _error(UsageError(f"POST a JSON object to /do/ and one of {', '.join(NAMES)}")), 400
            )
        return StreamingResponse(self._lines(name, arguments), media_type="application/x-ndjson")

    async def _lines(self, name: str, arguments: Json) -> AsyncIterator[bytes]:
        send, receive = anyio.create_memory_object_stream[Json](100_000)

        def emit(line: Json) -> None:
            with suppress(anyio.BrokenResourceError):  # the caller has disconnected; the operation continues
                send.send_nowait(line)

        def on_progress(kind: str, subject: str, done: int, total: int) -> None:
            emit({"progress": [kind, subject, done, total]})

        async def perform() -> None:
            with send:
                try:
                    emit({"result": await self._perform(name, arguments)})
                except Exception as error:  # an operation that fails must not end the service
                    if not isinstance(error, NightschoolError):
                        log.exception("operation failed", operation=name)
                    emit(_error(error))
                finally:
                    self._service.worker.listeners.remove(on_progress)

        self._service.worker.listeners.append(on_progress)
        self._tasks.start_soon(perform, name=f"do {name}")
        with receive:
            async for line in receive:
                yield json.dumps(line).encode() + b"\n"

    async def _perform(self, name: str, arguments: Json) -> Json:
        """Carry out one operation, and return its result as JSON; bad arguments raise `UsageError`."""
        operation = getattr(self._operations, name)
        try:
            inspect.signature(operation).bind(**arguments)
        except TypeError as error:
            raise UsageError(f"{name}: {error}") from error
        _require_types(name, get_type_hints(operation), arguments)
        result: Json = to_json(await operation(**arguments))
        return result

    async def _status(self, _request: Request) -> Response:
        service = self._service
        status = await service.ledger.read(report.status)
        reason = await next_update_reason(service)
        belongs = await service.ledger.read(belonging.problem, service.store)
        found = [service.health.fault, self._capture.fault, belongs.text if belongs else ""]
        problems = [text for text in found if text]
        return JSONResponse(
            to_json(ServiceStatus(**vars(status), next_update_reason=reason, problems=problems))
        )

    async def _receipt(self, request: Request) -> Response:
        state = await self._capture.state_of(request.path_params["receipt"])
        if state is None:
            return JSONResponse(
                _error(UsageError("this is not a receipt: give one from X-Nightschool-Receipt")), 404
            )
        return JSONResponse(state)


def _require_types(name: str, hints: Json, arguments: Json) -> None:
    """Raise `UsageError` for an argument of another type: a text in place of a list is a list of letters."""
    for key, value in arguments.items():
        try:
            TypeAdapter(hints.get(key, Any)).validate_python(value, strict=True)
        except ValidationError as error:
            raise UsageError(f"{name}: {key}: {error.errors()[0]['msg']}") from error


def _error(error: Exception) -> Json:
    """Return an error as JSON, with the message and the exit code that the command is to report."""
    code = error.exit_code if isinstance(error, NightschoolError) else NightschoolError.exit_code
    return {"error": {"message": str(error), "exit_code": code}}


async def serve(operations: Operations, tasks: TaskGroup, *, place: Path, port: int | None) -> int:
    """Start to serve HTTP on the unix socket and, unless `port` is None, on loopback.

    Args:
        operations: The operations to serve.
        tasks: The task group that the servers run in.
        place: Path of the unix socket.
        port: The port on loopback; 0 for any free port; None to serve only on the unix socket.

    Returns:
        The port on loopback; 0 if `port` is None.
    """
    service = operations.service
    capture = Capture(service.home.inbox, service.ledger, await service.ledger.read(privacy.cleaner))
    tasks.start_soon(capture.run, name="capture")
    app = Routes(operations, tasks, capture).app()
    model = service.settings.model
    guard = partial(
        AuthMiddleware,
        app,
        token=service.home.token(),
        external_auth_paths=PATHS if model.url and model.api_key else frozenset(),
        chat_token=service.home.chat_token,  # read each time, so that a rotation takes effect at once
        chat_paths=CHAT_PATHS,
    )
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(place))  # in the run directory, which only this user can enter
    listening.listen()
    tasks.start_soon(_serve, guard(), listening, name="serve the control socket")
    if port is None:
        return 0
    loopback = socket.create_server(("127.0.0.1", port))
    taken = int(loopback.getsockname()[1])
    tasks.start_soon(_serve, guard(port=taken), loopback, name="serve loopback")
    return taken


async def _serve(app: AuthMiddleware, listening: socket.socket) -> None:
    with listening:
        await _Server(server_config(app)).serve([listening])


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers, because the service handles signals itself."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers, unlike uvicorn's method."""
        yield
