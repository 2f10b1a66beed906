"""Processes of ours: started, watched until they are ready, ended.

Invariant: a child that was started here is either handed to the caller or ended, also when we are told to stop
meanwhile. Knows no model and no trainer.
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
    """A child of ours: it dies with us, and what it says goes to its log."""
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


async def until(name: str, process: Process, answers: Callable[[], Awaitable[object]], logs: Path) -> None:
    """Wait until a starting child answers; if it ends instead, or never does, say where its log is."""
    ready = False
    try:
        with anyio.move_on_after(START_S):
            async with anyio.create_task_group() as tasks:

                async def watch() -> None:
                    await process.wait()
                    tasks.cancel_scope.cancel()

                tasks.start_soon(watch, name=f"watch the {name}'s start")
                ready = await answers() is not False
                tasks.cancel_scope.cancel()
    finally:
        if not ready:  # also when we are told to stop meanwhile: nobody else knows of this child yet
            with anyio.CancelScope(shield=True):
                await stop(process)
    if not ready:
        raise ModelUnavailable(f"the {name} did not start: see {logs}")


async def stop(process: Process) -> None:
    """End a child: asked first, killed after STOP_S."""
    if process.returncode is None:
        process.terminate()
        with anyio.move_on_after(STOP_S):
            await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
