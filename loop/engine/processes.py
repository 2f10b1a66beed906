"""The process supervisor: starts the model server and the trainer, and restarts them when they die.

Invariant: while `ready` is set, both run and share one set of weights. When either dies, `lost` is set before
anything else happens, so that work in flight is given up. A server's death takes the trainer with it: its
weights are gone. More than RESTARTS deaths within WITHIN_S seconds stop the service with a clear message. A
user's own vLLM that goes away counts as no death: the supervisor waits for it.
"""

import os
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import anyio
import structlog
from anyio.abc import Process, TaskStatus

from agents.trainer.client import TrainerClient
from corpus.errors import NightschoolError
from loop.engine import children
from loop.engine.model_servers import CHECK_S, Server
from store import queries
from store.ledger.db import Ledger

RESTARTS, WITHIN_S = 5, 60.0
"""Restart budget."""
ABSENT_S = 5.0
"""How long an operation waits for a vLLM that does not run before it raises."""
GONE_S = 10.0
"""How long it may take until a vLLM that broke off its answers is seen to have gone."""
SERVER, TRAINER = "model server", "trainer"

log = structlog.get_logger()


@dataclass
class RestartBudget:
    """How often children may die, by the monotonic clock."""

    deaths: deque[float] = field(default_factory=deque)

    def spend(self, at: float) -> float:
        """Count a death; return the seconds to wait before the restart."""
        self.deaths.append(at)
        while self.deaths and at - self.deaths[0] > WITHIN_S:
            self.deaths.popleft()
        if len(self.deaths) > RESTARTS:
            raise NightschoolError(
                f"a child process died {len(self.deaths)} times within {WITHIN_S:.0f} s: "
                "see logs/ in the home"
            )
        return float(0.1 * 2 ** (len(self.deaths) - 1))


@dataclass(kw_only=True)
class ProcessSupervisor:
    """Keeps the server and the trainer of one service running."""

    run_dir: Path
    checkpoints: Path
    logs: Path
    threads: int
    ledger: Ledger
    server: Server
    trainer: TrainerClient
    on_start: Callable[[int, int], None] = lambda done, total: None
    """Called with the progress of a start: children that run, children to start."""
    running: bool = False
    """Whether both run, or are being started."""
    ready: anyio.Event = field(default_factory=anyio.Event)
    """Set while both run; replaced when one dies."""
    lost: anyio.Event = field(default_factory=anyio.Event)
    """Set once one of those that are ready dies; replaced when both run again."""
    dead: str = ""
    """Which one died last."""
    _trainer_process: Process | None = None

    @property
    def waits(self) -> str:
        """The fault that the user must mend before a night can run; "" while there is none."""
        return f"waiting for {self.server.fault}" if self.running and self.server.fault else ""

    def has_weights(self) -> bool:
        """Return whether there are shared weights to keep at the active checkpoint, or are about to be."""
        return self.running if self.server.managed else self.server.has_weights()

    async def wait_server(self) -> None:
        """Return when the server can be used; raise its fault if that lasts for ABSENT_S."""
        began = monotonic()
        while self.server.fault is not None:
            if monotonic() - began > ABSENT_S:
                raise type(self.server.fault)(str(self.server.fault))
            await anyio.sleep(CHECK_S)

    async def wait_ready(self) -> None:
        """Return when both run; raise as `wait_server`."""
        await self.wait_server()
        await self.ready.wait()

    async def server_went(self, lost: anyio.Event) -> bool:
        """Return whether work failed because a user's vLLM went away, which takes a moment to show."""
        if self.server.managed:
            return False
        with anyio.move_on_after(GONE_S):
            await lost.wait()
        return lost.is_set() and self.dead == SERVER

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Start both, report that they run, and keep them running until cancelled."""
        self.running = True
        budget, reported = RestartBudget(), False
        try:
            while True:
                trainer = await self._start()
                if await self._wait_trainer(trainer):
                    self.on_start(2, 2)
                    self.lost = anyio.Event()
                    self.ready.set()
                    if not reported:  # once: a second time is an error
                        reported = True
                        task_status.started()
                    self.dead = await _first({SERVER: self.server.ended, TRAINER: trainer.wait})
                    self.ready = anyio.Event()
                    self.lost.set()
                else:
                    self.dead = SERVER
                ours = self.server.managed or self.dead == TRAINER
                log.warning("child died" if ours else "vLLM went away", child=self.dead)
                await children.stop(trainer)
                if self.dead == SERVER:
                    await self.server.stop()
                if ours:
                    await anyio.sleep(budget.spend(monotonic()))
        finally:
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as tasks:
                    if self._trainer_process is not None:
                        tasks.start_soon(children.stop, self._trainer_process, name="stop the trainer")
                    tasks.start_soon(self.server.stop, name="stop the server")

    async def _start(self) -> Process:
        """Start the server and the trainer, and return the trainer once the server is ready."""
        self.on_start(0, 2)
        await self.server.start()
        # The trainer loads its libraries while the server makes the weights, and attaches when the pipe is
        # closed.
        self._trainer_process, gate = await self._spawn_trainer()
        try:
            await self.server.ready()
            self.on_start(1, 2)
        finally:
            os.close(gate)
        return self._trainer_process

    async def _spawn_trainer(self) -> tuple[Process, int]:
        """Start the trainer, which attaches to the weights when the returned pipe is closed."""
        active = await self.ledger.read(queries.active)
        waits, gate = os.pipe()
        try:
            process = await children.spawn(
                "agents.trainer.process.main",
                *("--run-dir", str(self.run_dir), "--checkpoints", str(self.checkpoints)),
                *("--mapping", str(self.server.run_dir), "--model", str(self.server.model_dir)),
                *("--active", active.id, "--threads", str(self.threads)),
                *("--parent", str(os.getpid()), "--start-fd", str(waits)),
                logs=self.logs,
                pass_fds=(waits,),
            )
        finally:
            os.close(waits)
        return process, gate

    async def _wait_trainer(self, trainer: Process) -> bool:
        """Wait until a starting trainer answers; return whether the server still runs by then."""

        async def answers() -> None:
            await children.wait_ready(TRAINER, trainer, self.trainer.status, self.logs)

        return await _first({SERVER: self.server.ended, TRAINER: answers}) == TRAINER


async def _first(endings: dict[str, Callable[[], Awaitable[object]]]) -> str:
    """Return the name of the first of these to end; cancel the others."""
    ended: list[str] = []
    async with anyio.create_task_group() as tasks:

        async def watch(name: str, end: Callable[[], Awaitable[object]]) -> None:
            await end()
            ended.append(name)
            tasks.cancel_scope.cancel()

        for name, end in endings.items():
            tasks.start_soon(watch, name, end, name=f"watch the {name}")
    return ended[0]
