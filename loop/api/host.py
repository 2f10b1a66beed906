"""Carry out the operations of commands, in the running service or, if none runs, in the command itself.

Invariant: an operation does the same in both cases. A command that carries out an operation itself holds the
home's lock for that time. It also answers other commands on the service's socket, as a service does.
"""

import json
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import anyio
import httpx
import structlog

from agents.ingest.follow import follow
from corpus.aliases import Json
from corpus.errors import HomeLocked, NightschoolError
from corpus.json_edge import from_json
from loop.api.http import serve
from loop.api.rpc import serve_rpc
from loop.config import load_settings
from loop.engine.activity import watch_users
from loop.engine.scheduler import keep_schedule
from loop.engine.service import opened, scrub_again
from loop.engine.worker import Listener
from loop.operations.operations import (
    CHECKED,
    NEEDS_PROCESSES,
    NEEDS_VLLM_IF_UP,
    Operations,
    keeps_weights,
    result_kind,
)
from store.home import Home, is_held

PATIENCE_S = 15.0
"""Longest time in seconds that a command waits for the socket of a service that is still starting."""

log = structlog.get_logger()


async def perform(home: Home, name: str, arguments: Json, listener: Listener) -> Any:
    """Carry out one operation and return its result.

    If a service holds the home, the service carries out the operation; otherwise this process does.

    Args:
        home: The home.
        name: Name of the operation, a method of `Operations`.
        arguments: The method's keyword arguments.
        listener: Called with the progress.

    Raises:
        HomeLocked: Another process holds the home and opens no socket within PATIENCE_S.
    """
    began = monotonic()
    while is_held(home):
        if home.control_socket.exists():
            return from_json(result_kind(name), await _ask_service(home, name, arguments, listener))
        if monotonic() - began > PATIENCE_S:
            raise HomeLocked(
                f"another command holds {home.path} and does not answer: try again when it has ended"
            )
        await anyio.sleep(0.1)
    async with _hosted(home, name, arguments) as operations:
        operations.service.worker.listeners.append(listener)
        return await getattr(operations, name)(**arguments)


async def _ask_service(home: Home, name: str, arguments: Json, listener: Listener) -> Json:
    """Have the running service carry out an operation, and return the result as JSON.

    The service's progress is passed on to `listener`, and an error of the service is raised here.
    """
    transport = httpx.AsyncHTTPTransport(uds=str(home.control_socket))
    headers = {"Authorization": f"Bearer {home.token()}"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://nightschool", headers=headers, timeout=None, trust_env=False
    ) as client:
        try:
            async with client.stream("POST", f"/do/{name}", json=arguments) as response:
                async for line in response.aiter_lines():
                    message = json.loads(line)
                    if "progress" in message:
                        listener(*message["progress"])
                    elif "error" in message:
                        raise _as_error(message["error"])
                    else:
                        result: Json = message["result"]
                        return result
        except httpx.TransportError as error:
            raise NightschoolError(
                f"the service went away during {name} ({type(error).__name__}): "
                "what it had begun goes on when it is started again"
            ) from error
    raise NightschoolError(f"the service ended its answer to {name} half-way: see its log")


def _as_error(error: Any) -> NightschoolError:
    """Return an exception for an error that the service reported, with the same message and exit code."""
    fault = NightschoolError(error["message"])
    fault.exit_code = error["exit_code"]
    return fault


@asynccontextmanager
async def _hosted(home: Home, name: str, arguments: Json) -> AsyncIterator[Operations]:
    """Hold the home for one command, and yield its operations.

    The model server, the trainer and the worker also run if the operation needs them.
    """
    async with opened(home, load_settings(home.config_file)) as service, anyio.create_task_group() as tasks:
        operations, quiet = Operations(service=service), keeps_weights(name, arguments)
        if name in CHECKED:
            await getattr(operations, CHECKED[name])(**arguments)
        served = service.processes.has_weights() and name in NEEDS_VLLM_IF_UP and not quiet
        if name in NEEDS_PROCESSES or served:
            tasks.start_soon(service.processes.run, name="processes")
            if name in NEEDS_PROCESSES and not quiet:  # a dry run must not start work that changes the ledger
                tasks.start_soon(service.worker.run, name="work")
                tasks.start_soon(watch_users, service, name="watch for users")
            await serve(operations, tasks, place=home.control_socket, port=None)
            await tasks.start(serve_rpc, operations, name="answer vLLM's routes")
        yield operations
        tasks.cancel_scope.cancel()


async def run(home: Home, watch: list[str], on_ready: Callable[[int], None]) -> None:
    """Run the service in the foreground until SIGTERM, SIGINT or SIGHUP (its terminal is gone).

    Args:
        home: The home to serve.
        watch: Folders whose logs are followed, in addition to the inbox and `ingest.watch`.
        on_ready: Called with the loopback port when the service is ready.
    """
    settings = load_settings(home.config_file)
    async with opened(home, settings) as service, anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_on_signal, tasks.cancel_scope, name="signals")
        folders = [home.inbox, *map(Path, [*settings.ingest.watch, *watch])]
        reading = partial(follow, service.ledger, folders, service.worker.wake)
        tasks.start_soon(service.health.keep, reading, name="follow the logs")
        tasks.start_soon(service.health.keep, partial(scrub_again, service), name="scrub stored text again")
        if service.processes.server.managed:
            await tasks.start(service.processes.run, name="processes")
        else:  # the user's vLLM may be down or may load for minutes: all but the night works without it
            tasks.start_soon(service.processes.run, name="processes")
            tasks.start_soon(watch_users, service, name="watch for users")
        tasks.start_soon(service.health.keep, service.worker.run, name="work")
        tasks.start_soon(service.health.keep, partial(keep_schedule, service), name="schedule")
        operations = Operations(service=service)
        port = await serve(operations, tasks, place=home.control_socket, port=settings.http.port)
        await tasks.start(serve_rpc, operations, name="answer vLLM's routes")
        on_ready(port)


async def _stop_on_signal(scope: anyio.CancelScope) -> None:
    """Cancel the scope, and so stop the service, at the first SIGTERM, SIGINT or SIGHUP."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            log.info("stopping", signal=signal.Signals(number).name)
            scope.cancel()
            return
