"""The crew: the model server and the trainer, started in order and started again when they die.

Invariant: while `ready` is set both run and share one mapping; when either dies `lost` is set before anything
else happens, so that work in flight is given up. A server's death takes the trainer with it: its mapping is
gone. More than RESTARTS deaths in WITHIN_S seconds stop the service with a clear message.
"""

import os
import subprocess
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic
from typing import IO

import anyio
import anyio.to_thread
import structlog
from anyio.abc import Process, TaskStatus

from agents.model.client import ModelClient
from agents.trainer.client import TrainerClient
from corpus.errors import IntegrityFault, ModelUnavailable, NightschoolError
from store import queries
from store.checkpoints import CheckpointStore
from store.ledger import Ledger

RESTARTS, WITHIN_S = 5, 60.0
"""Restart budget."""
START_S = 90.0
"""Longest wait for a child to be ready; imports alone take some 5 s."""
STOP_S = 2.0
"""Time that a child has to end by itself."""

log = structlog.get_logger()


@dataclass
class Budget:
    """How often children may die, by the monotonic clock."""

    deaths: deque[float] = field(default_factory=deque)

    def spend(self, at: float) -> float:
        """Count a death; returns the seconds to wait before the restart."""
        self.deaths.append(at)
        while self.deaths and at - self.deaths[0] > WITHIN_S:
            self.deaths.popleft()
        if len(self.deaths) > RESTARTS:
            raise NightschoolError(
                f"a child process died {len(self.deaths)} times within {WITHIN_S:.0f} s: see logs/ in the home"
            )
        return float(0.1 * 2 ** (len(self.deaths) - 1))


@dataclass(kw_only=True)
class Crew:
    """Keeps the children of one service."""

    run_dir: Path
    model_dir: Path
    checkpoints: Path
    token_file: Path
    logs: Path
    threads: int
    ledger: Ledger
    model: ModelClient
    trainer: TrainerClient
    told: Callable[[int, int], None] = lambda done, total: None
    """Told how far the start is: children that run, children to be started."""
    running: bool = False
    """Whether there is a mapping to keep in step with the active checkpoint, or will be."""
    ready: anyio.Event = field(default_factory=anyio.Event)
    lost: anyio.Event = field(default_factory=anyio.Event)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Start both, say so, and keep them until cancelled."""
        self.running = True
        budget, said = Budget(), False
        server = trainer = None
        try:
            while True:
                self.told(0, 2)
                # The trainer loads its libraries while the server makes the mapping, then is let in.
                trainer, let_in = await self._spawn_trainer()
                try:
                    if server is None:
                        server = await self._start_server()
                    self.told(1, 2)
                finally:
                    os.close(let_in)
                await _until("trainer", trainer, self.trainer.status, self.logs)
                self.told(2, 2)
                self.lost = anyio.Event()
                self.ready.set()
                if not said:  # once: a second time is an error
                    said = True
                    task_status.started()
                dead = await _first_to_die({"model server": server, "trainer": trainer})
                self.ready = anyio.Event()
                self.lost.set()
                log.warning("child died", child=dead)
                await _stop(trainer)
                if dead == "model server":
                    await _stop(server)
                    server = None
                await anyio.sleep(budget.spend(monotonic()))
        finally:
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as tasks:
                    for process in filter(None, (trainer, server)):
                        tasks.start_soon(_stop, process, name="stop a child")

    async def _start_server(self) -> Process:
        active = await self.ledger.read(queries.active)
        faults = await anyio.to_thread.run_sync(CheckpointStore(self.checkpoints).verify, [active["id"]])
        if faults:  # the server reads the numbers as they are: damaged ones would be served, and learnt from
            raise IntegrityFault(f"the active checkpoint is damaged, nothing is served: {faults[0].problem}")
        weights = self.checkpoints / "blobs" / f"{active['weights_sha256']}.safetensors"
        ready, told = os.pipe()
        try:
            process = await self._spawn(
                "agents.model.server",
                *("--run-dir", str(self.run_dir), "--model", str(self.model_dir), "--weights", str(weights)),
                *("--holds", active["id"], "--token-file", str(self.token_file)),
                *("--threads", str(self.threads), "--ready-fd", str(told), "--parent-pid", str(os.getpid())),
                pass_fds=(told,),
            )
            os.close(told)
            await _until("model server", process, partial(_says_ready, ready), self.logs)
        finally:
            os.close(ready)
        return process

    async def _spawn_trainer(self) -> tuple[Process, int]:
        """The trainer, and the end of a pipe: it attaches to the mapping when that is closed."""
        active = await self.ledger.read(queries.active)
        waits, let_in = os.pipe()
        try:
            process = await self._spawn(
                "agents.trainer.process",
                *("--run-dir", str(self.run_dir), "--checkpoints", str(self.checkpoints)),
                *("--model", str(self.model_dir), "--active", active["id"], "--threads", str(self.threads)),
                *("--parent", str(os.getpid()), "--start-fd", str(waits)),
                pass_fds=(waits,),
            )
        finally:
            os.close(waits)
        return process, let_in

    async def _spawn(self, module: str, *arguments: str, pass_fds: tuple[int, ...] = ()) -> Process:
        """A child of ours: it dies with us, and what it says goes to its log."""
        with self._log(module) as stream:
            return await anyio.open_process(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stream,
                pass_fds=pass_fds,
            )

    def _log(self, module: str) -> IO[bytes]:
        return open(self.logs / f"{module.split('.')[1]}.log", "ab")


async def _until(name: str, process: Process, answers: Callable[[], Awaitable[object]], logs: Path) -> None:
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
                await _stop(process)
    if not ready:
        raise ModelUnavailable(f"the {name} did not start: see {logs}")


async def _says_ready(pipe: int) -> bool:
    """Whether the child at the other end says that it is ready; False when it ends without a word."""
    await anyio.wait_readable(pipe)
    return bool(os.read(pipe, 16))


async def _first_to_die(processes: dict[str, Process]) -> str:
    """Name of the first process to end."""
    dead: list[str] = []
    async with anyio.create_task_group() as tasks:

        async def watch(name: str, process: Process) -> None:
            await process.wait()
            dead.append(name)
            tasks.cancel_scope.cancel()

        for name, process in processes.items():
            tasks.start_soon(watch, name, process, name=f"watch the {name}")
    return dead[0]


async def _stop(process: Process) -> None:
    """End a child: asked first, killed after STOP_S."""
    if process.returncode is None:
        process.terminate()
        with anyio.move_on_after(STOP_S):
            await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
