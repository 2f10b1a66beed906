"""Child processes: started, watched until they answer, stopped.

Invariant: a child that is started here is either returned to the caller or stopped, even when the caller is
cancelled meanwhile. This module knows nothing about the model or the trainer.
"""

import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import IO

import anyio
from anyio.abc import Process

from corpus.errors import ModelUnavailable

START_S = 90.0
"""Longest wait for a child to be ready; imports alone take some 5 s."""
STOP_S = 2.0
"""Time that a child has to end by itself."""


async def spawn(module: str, *arguments: str, logs: Path, pass_fds: tuple[int, ...] = ()) -> Process:
    """Start a module as a child that writes to a log of its own."""
    with _log(logs, module) as stream:
        return await anyio.open_process(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stream,
            pass_fds=pass_fds,
        )


def _log(logs: Path, module: str) -> IO[bytes]:
    return open(logs / f"{module.split('.')[1]}.log", "ab")


async def wait_ready(name: str, process: Process, ready: Callable[[], Awaitable[object]], logs: Path) -> None:
    """Wait until a starting child is ready; raise if it ends instead, or takes too long.

    Args:
        name: Of the child, for messages.
        process: The child.
        ready: Returns once the child is ready, or False if it never will be.
        logs: Where its log is.
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
        if not is_ready:  # also when this is cancelled: nobody else knows of the child yet
            with anyio.CancelScope(shield=True):
                await stop(process)
    if not is_ready:
        raise ModelUnavailable(f"the {name} did not start: see {logs}")


async def stop(process: Process) -> None:
    """End a child: terminate it, and kill it after STOP_S."""
    if process.returncode is None:
        process.terminate()
        with anyio.move_on_after(STOP_S):
            await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
