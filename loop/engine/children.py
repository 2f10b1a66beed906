"""Functions that start a child process, wait until it is ready, and stop it.

Invariant: a child runs none but installed code, from a fixed working directory, whatever the user's
working directory holds. A child that does not become ready is stopped, even when the caller is cancelled
while it waits. This module knows nothing about the model or the trainer.
"""

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import IO

import anyio
import structlog
from anyio.abc import Process

from corpus.errors import ModelUnavailable
from loop.engine.watchdog import wait_hung

log = structlog.get_logger()

START_S = 300.0
"""Longest wait for a child to be ready, in seconds; its imports take 5 s, and minutes on a loaded machine."""
STOP_S = 2.0
"""Seconds between the request to terminate a child and its kill."""


async def spawn(module: str, *arguments: str, logs: Path, pass_fds: tuple[int, ...] = ()) -> Process:
    """Start a Python module as a child process and return the process.

    Paths among the arguments must be absolute.

    Args:
        module: Name of the module, as for `python -m`.
        arguments: Command line of the module.
        logs: Folder in which the child's standard error is appended to a log file.
        pass_fds: File descriptors that the child inherits.
    """
    with _log(logs, module) as stream:
        return await anyio.open_process(
            # -P: a module in the working directory must not stand in for one of ours.
            [sys.executable, "-P", "-m", module, *arguments],
            cwd="/",
            env={**os.environ, "PYTHONSAFEPATH": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stream,
            pass_fds=pass_fds,
        )


def _log(logs: Path, module: str) -> IO[bytes]:
    """Open a module's log file, named after the second part of the module's name."""
    return open(logs / f"{module.split('.')[1]}.log", "ab")


async def wait_ready(name: str, process: Process, ready: Callable[[], Awaitable[object]], logs: Path) -> None:
    """Wait until a starting child is ready; stop it if that fails.

    Args:
        name: Name of the child, for messages.
        process: The child.
        ready: Function that returns once the child is ready. Its result False means that the start failed.
        logs: Folder of the child's log, for the error message.

    Raises:
        ModelUnavailable: The child ended, its start failed, or START_S seconds passed.
    """
    is_ready = False
    try:
        with anyio.move_on_after(START_S):
            async with anyio.create_task_group() as tasks:

                async def watch() -> None:
                    await process.wait()
                    tasks.cancel_scope.cancel()

                tasks.start_soon(watch, name=f"watch the {name}'s start")
                is_ready = await ready() is not False
                tasks.cancel_scope.cancel()
    finally:
        if not is_ready:  # also after a cancellation: the caller does not look after the child yet
            with anyio.CancelScope(shield=True):
                await stop(process)
    if not is_ready:
        raise ModelUnavailable(f"the {name} did not start: see {logs}")


async def ended_or_hung(name: str, process: Process, answers: Callable[[], Awaitable[object]]) -> None:
    """Wait until a child has ended; kill it if it hangs.

    Args:
        name: Name of the child, for the log.
        process: The child.
        answers: Asks the child for a sign of life: see `watchdog.wait_hung`.
    """
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            await wait_hung(process.pid, answers)
            log.warning("child hangs", child=name)
            process.kill()

        tasks.start_soon(watch, name=f"watch whether the {name} hangs")
        await process.wait()
        tasks.cancel_scope.cancel()


async def stop(process: Process) -> None:
    """Terminate a child, and kill it if it still runs after STOP_S; return when it has ended."""
    if process.returncode is None:
        process.terminate()
        with anyio.move_on_after(STOP_S):
            await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
