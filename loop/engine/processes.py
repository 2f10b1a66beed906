"""The crew: the model server and the trainer, started in order and started again when they die.

Invariant: while `ready` is set both run and share one mapping; when either dies `lost` is set before anything
else happens, so that work in flight is given up. A server's death takes the trainer with it: its mapping is
gone. More than RESTARTS deaths in WITHIN_S seconds stop the service with a clear message; that a user's own vLLM
went is no death of ours, and it is waited for.
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
from loop.engine.model_servers import LOOK_S, Server
from store import queries
from store.ledger.db import Ledger

RESTARTS, WITHIN_S = 5, 60.0
"""Restart budget."""
ABSENT_S = 5.0
"""How long an operation waits for a vLLM that is not there before it says so."""
GONE_S = 10.0
"""How long it may take until a vLLM that broke off its answers is seen to have gone."""
SERVER, TRAINER = "model server", "trainer"

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
class ProcessSupervisor:
    """Keeps the server and the trainer of one service."""

    run_dir: Path
    checkpoints: Path
    logs: Path
    threads: int
    ledger: Ledger
    server: Server
    trainer: TrainerClient
    on_start: Callable[[int, int], None] = lambda done, total: None
    """Called with the progress of a start: children that run, children to be started."""
    running: bool = False
    """Whether both run, or are being started."""
    ready: anyio.Event = field(default_factory=anyio.Event)
    lost: anyio.Event = field(default_factory=anyio.Event)
    dead: str = ""
    """Which one died last."""

    @property
    def waits(self) -> str:
        """What the user is waited for; "" while he is not."""
        return f"waiting for {self.server.fault}" if self.running and self.server.fault else ""

    def keeps_mapping(self) -> bool:
        """Whether there is a mapping to keep in step with the active checkpoint, or will be before the next start."""
        return self.running if self.server.ours else self.server.is_there()

    async def wait_server(self) -> None:
        """Raise what keeps a user's vLLM from being used, if that lasts for ABSENT_S."""
        began = monotonic()
        while self.server.fault is not None:
            if monotonic() - began > ABSENT_S:
                raise type(self.server.fault)(str(self.server.fault))
            await anyio.sleep(LOOK_S)

    async def wait_ready(self) -> None:
        """Return when both run; raise as `wait_server`."""
        await self.wait_server()
        await self.ready.wait()

    async def server_went(self, lost: anyio.Event) -> bool:
        """Whether work failed for no reason of its own: a user's vLLM went, which takes a moment to show."""
        if self.server.ours:
            return False
        with anyio.move_on_after(GONE_S):
            await lost.wait()
        return lost.is_set() and self.dead == SERVER

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Start both, say so, and keep them until cancelled."""
        self.running = True
        budget, said = Budget(), False
        trainer: Process | None = None
        try:
            while True:
                self.on_start(0, 2)
                await self.server.start()
                # The trainer loads its libraries while the server makes the mapping, then is let in.
                trainer, let_in = await self._spawn_trainer()
                try:
                    await self.server.ready()
                    self.on_start(1, 2)
                finally:
                    os.close(let_in)
                if await self._answers(trainer):
                    self.on_start(2, 2)
                    self.lost = anyio.Event()
                    self.ready.set()
                    if not said:  # once: a second time is an error
                        said = True
                        task_status.started()
                    self.dead = await _first({SERVER: self.server.ended, TRAINER: trainer.wait})
                    self.ready = anyio.Event()
                    self.lost.set()
                else:
                    self.dead = SERVER
                log.warning(
                    "child died" if self.server.ours or self.dead == TRAINER else "vLLM went", child=self.dead
                )
                await children.stop(trainer)
                if self.dead == SERVER:
                    await self.server.stop()
                if self.server.ours or self.dead == TRAINER:
                    await anyio.sleep(budget.spend(monotonic()))
        finally:
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as tasks:
                    if trainer is not None:
                        tasks.start_soon(children.stop, trainer, name="stop the trainer")
                    tasks.start_soon(self.server.stop, name="stop the server")

    async def _spawn_trainer(self) -> tuple[Process, int]:
        """The trainer, and the end of a pipe: it attaches to the mapping when that is closed."""
        active = await self.ledger.read(queries.active)
        waits, let_in = os.pipe()
        try:
            process = await children.spawn(
                "agents.trainer.process.main",
                *("--run-dir", str(self.run_dir), "--checkpoints", str(self.checkpoints)),
                *("--mapping", str(self.server.mapping), "--model", str(self.server.model_dir)),
                *("--active", active.id, "--threads", str(self.threads)),
                *("--parent", str(os.getpid()), "--start-fd", str(waits)),
                logs=self.logs,
                pass_fds=(waits,),
            )
        finally:
            os.close(waits)
        return process, let_in

    async def _answers(self, trainer: Process) -> bool:
        """Wait until a starting trainer answers; whether the server is still there by then."""

        async def answers() -> None:
            await children.until(TRAINER, trainer, self.trainer.status, self.logs)

        return await _first({SERVER: self.server.ended, TRAINER: answers}) == TRAINER


async def _first(awaited: dict[str, Callable[[], Awaitable[object]]]) -> str:
    """Name of the first of these to come to its end; the others are cancelled."""
    first: list[str] = []
    async with anyio.create_task_group() as tasks:

        async def watch(name: str, ends: Callable[[], Awaitable[object]]) -> None:
            await ends()
            first.append(name)
            tasks.cancel_scope.cancel()

        for name, ends in awaited.items():
            tasks.start_soon(watch, name, ends, name=f"watch the {name}")
    return first[0]
