"""The process supervisor: starts the model server and the trainer, and restarts them when they die.

Invariant: while `ready` is set, both run and share one set of weights. When either dies, `lost` is set
before anything else happens, so that work in flight is given up. A child that hangs is killed, and so
dies. When the server dies, the trainer is stopped too, because the shared weights are gone. More than
RESTARTS deaths within WITHIN_S seconds stop the service with a clear message. If a user's own vLLM goes
away, that is not counted as a death: the supervisor waits until the vLLM is back.
"""

import os
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic

import anyio
import structlog
from anyio.abc import Process, TaskStatus

from agents.trainer.client import TrainerClient
from corpus.errors import NightschoolError, TrainerFault
from loop.engine import children
from loop.engine.model_servers import CHECK_S, Server
from store import queries
from store.ledger.db import Ledger

RESTARTS, WITHIN_S = 5, 60.0
"""The restart budget: this many deaths within this many seconds are answered by a restart."""
ABSENT_S = 5.0
"""Seconds that an operation waits for a vLLM that does not run, before the operation fails."""
GONE_S = 10.0
"""Longest time in seconds between a vLLM's last broken answer and the moment when its end is noticed."""
SERVER, TRAINER = "model server", "trainer"

log = structlog.get_logger()


@dataclass
class RestartBudget:
    """The recent deaths of children, and the limit on their number."""

    deaths: deque[float] = field(default_factory=deque)
    """Times of the deaths within the last WITHIN_S seconds, by the monotonic clock."""

    def spend(self, at: float) -> float:
        """Count a death at this time; return the seconds to wait before the restart.

        Raises:
            NightschoolError: More than RESTARTS children died within WITHIN_S seconds.
        """
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
    """The supervisor that keeps the model server and the trainer of one service running."""

    run_dir: Path
    checkpoints: Path
    logs: Path
    threads: int
    ledger: Ledger
    server: Server
    trainer: TrainerClient
    on_start: Callable[[int, int], None] = lambda done, total: None
    """Called with the progress of a start: how many children run, and how many are to run."""
    running: bool = False
    """Whether `run` was called: then both processes run, or are being started."""
    ready: anyio.Event = field(default_factory=anyio.Event)
    """Set while both processes run; replaced by a new event when one of them dies."""
    lost: anyio.Event = field(default_factory=anyio.Event)
    """Set when one of the two running processes dies; replaced by a new event when both run again."""
    dead: str = ""
    """Which of the two died last: SERVER or TRAINER; "" if none has."""
    _trainer_process: Process | None = None

    @property
    def waits(self) -> str:
        """The fault that the user must repair before a night can run, as text; "" while there is none."""
        return f"waiting for {self.server.fault}" if self.running and self.server.fault else ""

    def has_weights(self) -> bool:
        """Return whether there are shared weights now, or will be soon.

        If so, a change of the active checkpoint has to be written to them.
        """
        return self.running if self.server.managed else self.server.has_weights()

    async def wait_server(self) -> None:
        """Wait until the server has no fault; raise the fault if it lasts longer than ABSENT_S."""
        began = monotonic()
        while self.server.fault is not None:
            if monotonic() - began > ABSENT_S:
                raise type(self.server.fault)(str(self.server.fault))
            await anyio.sleep(CHECK_S)

    async def wait_ready(self) -> None:
        """Wait until the server and the trainer run; raise the server's fault as `wait_server` does."""
        await self.wait_server()
        await self.ready.wait()

    async def server_went(self, lost: anyio.Event) -> bool:
        """Return whether a user's vLLM went away while a piece of work ran; False for a managed server.

        The end of a vLLM is noticed with a delay, so this method waits for it for up to GONE_S.

        Args:
            lost: The event `lost` as it was when the work began.
        """
        if self.server.managed:
            return False
        with anyio.move_on_after(GONE_S):
            await lost.wait()
        return lost.is_set() and self.dead == SERVER

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Start the server and the trainer, report that they run, and keep them running until cancelled."""
        self.running = True
        budget, reported = RestartBudget(), False
        try:
            while True:
                trainer = await self._start()
                if await self._wait_trainer(trainer):
                    self.on_start(2, 2)
                    self.lost = anyio.Event()
                    self.ready.set()
                    if not reported:  # anyio raises an error if a task reports twice that it has started
                        reported = True
                        task_status.started()
                    self.dead = await _first(
                        {SERVER: self.server.ended, TRAINER: partial(self._trainer_ended, trainer)}
                    )
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

    async def _trainer_answers(self) -> None:
        """Wait until a starting trainer answers, for as long as its libraries take to load."""
        while True:
            with suppress(TrainerFault):
                await self.trainer.status()
                return

    async def _trainer_ended(self, trainer: Process) -> None:
        """Wait until the trainer has ended; kill it if it hangs."""
        await children.ended_or_hung(TRAINER, trainer, self.trainer.status)

    async def _start(self) -> Process:
        """Start the server and the trainer, and return the trainer once the server is ready."""
        self.on_start(0, 2)
        await self.server.start()
        # The trainer loads its libraries while the server makes the shared weights. The trainer attaches to
        # the weights when the pipe is closed.
        self._trainer_process, gate = await self._spawn_trainer()
        try:
            await self.server.ready()
            self.on_start(1, 2)
        finally:
            os.close(gate)
        return self._trainer_process

    async def _spawn_trainer(self) -> tuple[Process, int]:
        """Start the trainer; return its process and the writing end of a pipe.

        The trainer attaches to the shared weights when the caller closes the pipe.
        """
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
        """Wait until a starting trainer answers; return False as soon as the server ends instead."""

        async def answers() -> None:
            await children.wait_ready(TRAINER, trainer, self._trainer_answers, self.logs)

        return await _first({SERVER: self.server.ended, TRAINER: answers}) == TRAINER


async def _first(endings: dict[str, Callable[[], Awaitable[object]]]) -> str:
    """Run all the functions at once; return the name of the first that ends, and cancel the others."""
    ended: list[str] = []
    async with anyio.create_task_group() as tasks:

        async def watch(name: str, end: Callable[[], Awaitable[object]]) -> None:
            await end()
            ended.append(name)
            tasks.cancel_scope.cancel()

        for name, end in endings.items():
            tasks.start_soon(watch, name, end, name=f"watch the {name}")
    return ended[0]
