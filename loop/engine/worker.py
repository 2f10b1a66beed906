"""The supervisor: one task group that keeps the crew, does the work, follows the logs and keeps the schedule.

A turn goes one way: ingest commits it, its work row is taken, an agent's handler returns an Outcome, the flow
says what follows, and one transaction makes it all true. Events in memory only say "wake up".

Invariant: whoever opens a Service holds the home; a restart resumes from rows. Errors of a handler are caught
here and nowhere else, counted on the row, and never stop the rest.
"""

import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any

import anyio
import structlog

from agents.evaluator.measure import Evaluator
from agents.model.client import ModelClient
from agents.model.describe import attention_heads, count_layers
from agents.readout.monitor import Monitor
from agents.trainer.client import TrainerClient
from corpus.aliases import Progress
from corpus.behaviour import Behaviour, definition
from corpus.errors import NightschoolError, TrainerFault
from loop.config import Settings
from loop.engine import model_servers
from loop.engine.processes import ProcessSupervisor
from loop.engine.yielding import attend
from loop.night import flow, gc
from loop.night.handlers import Handler, handlers
from loop.night.stages import Stages
from store import queries
from store.checkpoints.store import CheckpointStore
from store.home import Home, locked, run_directory
from store.ledger.db import Ledger, database_url
from store.nights import history
from store.queue import outcome as outcomes
from store.queue import work
from store.queue.outcome import Outcome
from store.queue.work import Work

Listener = Callable[[str, str, int, int], None]
"""Told how far a piece of work is: (kind, subject, done, total)."""

log = structlog.get_logger()


@dataclass(kw_only=True)
class Service:
    """What one process needs to do the home's work. Make one with `opened`."""

    home: Home
    settings: Settings
    ledger: Ledger
    behaviours: dict[str, Behaviour]
    store: CheckpointStore
    model: ModelClient
    trainer: TrainerClient
    crew: ProcessSupervisor
    stages: Stages
    handlers: dict[str, Handler]
    listeners: list[Listener] = field(default_factory=list)
    last_asked: float = field(default_factory=lambda: monotonic() - 86400.0)
    """When a user last asked, by the monotonic clock."""
    doing: str = ""
    """The kind of work in hand; "" while there is none."""
    files: anyio.Lock = field(default_factory=anyio.Lock)
    """Held by an operation that writes or removes checkpoint files outside a night."""
    waits: str = ""
    """Why the update that is being trained waits; "" while none does."""
    _went: Counter[int] = field(default_factory=Counter)
    """How often a vLLM went under each piece of work."""
    working: bool = False
    """Whether the work in the ledger is done here."""
    _hand: tuple[Work, anyio.CancelScope] | None = None
    """The work in hand, and what breaks it off."""
    _wake: anyio.Event = field(default_factory=anyio.Event)
    _done: anyio.Event = field(default_factory=anyio.Event)

    def wake(self) -> None:
        """Say that there may be work. Only after it was committed."""
        self._wake.set()

    def user_asked(self) -> None:
        """Remember that a user was active just now."""
        self.last_asked = monotonic()

    async def begin_night(self, *, seed: int, retry: bool) -> str:
        """Begin a night, or go on with the one that is running; returns its id."""
        async with self.files:  # what a `prune` sweeps, a night must not be writing
            night_id = await self.ledger.write(partial(history.begin_night, seed=seed, retry=retry))
        self.wake()
        return night_id

    async def finished(self, night_id: str) -> None:
        """Wait until a night has ended."""
        while True:
            done = self._done  # taken before the look: what happens in between is not missed
            if (await self.ledger.read(queries.night, night_id))["state"] == "done":
                return
            await done.wait()

    def tell(self, kind: str, subject: str, done: int, total: int) -> None:
        """Tell the listeners how far something is."""
        for listener in self.listeners:
            listener(kind, subject, done, total)

    async def work(self) -> None:
        """Do the work in the ledger, oldest first, until cancelled."""
        self.working = True
        while True:
            self._wake = anyio.Event()
            item = await self.ledger.write(work.lease, f"pid {os.getpid()}")
            self.doing = "" if item is None else item.kind
            if item is not None:
                with anyio.CancelScope() as scope:
                    self._hand = item, scope
                    await self._do(item)
                self._hand = None
                self._done.set()
                self._done = anyio.Event()
            else:
                await self._wake.wait()

    async def drop(self, night_id: str, why: str) -> None:
        """Break off what is being done for a night whose work was withdrawn, be it in mid-update."""
        if self._hand is not None and self._hand[0].night_id == night_id and self._hand[0].kind != "settle":
            self._hand[1].cancel()
            if self.crew.ready.is_set():  # the trainer would go on with an update that nobody waits for
                with suppress(TrainerFault):
                    await self.trainer.cancel(why)

    async def _do(self, item: Work) -> None:
        """One piece of work, to its end or to a failure on its row."""
        try:
            result = await self._handle(item)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self.ledger.write(work.hand_back, item)
            raise
        except Exception as error:  # the boundary: whatever a handler raises is counted on its row
            if isinstance(error, _ServerWent) and self._is_no_failure(item):
                await self.ledger.write(work.hand_back, item)
                return
            log.warning(
                "work failed",
                kind=item.kind,
                subject=item.subject,
                error=str(error),
                exc_info=_unforeseen(error),
            )
            if item.kind == "settle" and item.attempts + 1 >= work.MAX_ATTEMPTS:
                # Set aside, it would leave the night open and weights that were not kept in the mapping.
                await self.ledger.write(work.hand_back, item)
                raise
            await self.ledger.write(self._failed, item, f"{type(error).__name__}: {error}")
            return
        await self.ledger.write(outcomes.commit, item, result, flow.follow(item, result))

    def _is_no_failure(self, item: Work) -> bool:
        """Whether a vLLM's end is no fault of the work: not if it ends whenever this work is done."""
        self._went[item.id] += 1
        return self._went[item.id] < work.MAX_ATTEMPTS

    async def _handle(self, item: Work) -> Outcome:
        """Run the handler; when a child dies under it, give it up at once."""
        report = self.reporter(item.kind, item.subject)
        if item.kind not in flow.NIGHT_KINDS:
            return await self.handlers[item.kind](item, report)
        await self.crew.ready.wait()
        lost, result = self.crew.lost, None
        async with anyio.create_task_group() as tasks:

            async def give_up() -> None:
                await lost.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(give_up, name="watch the crew")
            if item.kind == "train":
                tasks.start_soon(attend, self, item.night_id, name="attend the update")
            result = await self._unwrapped(item, report)
            tasks.cancel_scope.cancel()
        if isinstance(result, Outcome):
            return result
        if await self.crew.went(lost):
            raise _ServerWent(
                f"vLLM went away under this work: see its log ({result or 'it was broken off'})"
            )
        raise result or NightschoolError("a child process died during this work")

    async def _unwrapped(self, item: Work, report: Progress) -> Outcome | Exception:
        """The handler's outcome or error, so that a task group does not wrap the error."""
        try:
            return await self.handlers[item.kind](item, report)
        except Exception as error:
            return error

    def _failed(self, connection: Any, item: Work, error: str) -> None:
        """Count a failure; when the work is set aside, queue what has to happen all the same."""
        if not work.is_wanted(connection, item):  # what it is about was removed, or its night was ended
            return
        aside = work.fail(connection, item, error)
        outcomes.note(
            connection, "failure", item.kind, {"subject": item.subject, "error": error, "set_aside": aside}
        )
        if aside:
            for kind, subject in flow.follow_failure(item):
                work.enqueue(connection, kind, subject, item.night_id)

    def reporter(self, kind: str, subject: str) -> Progress:
        """What a handler calls to say how far it is."""

        async def report(done: int, total: int) -> None:
            self.tell(kind, subject, done, total)

        return report


class _ServerWent(NightschoolError):
    """A user's vLLM went under a piece of work, which is done again when it is back."""


@asynccontextmanager
async def opened(home: Home, settings: Settings) -> AsyncIterator[Service]:
    """Hold the home and set up everything that does its work; nothing runs yet."""
    async with AsyncExitStack() as stack:
        stack.enter_context(locked(home))
        run_dir = stack.enter_context(run_directory(home))
        ledger = Ledger(database_url(home.path, settings.database))
        stack.callback(ledger.close)
        await ledger.write(work.release_all)
        store = CheckpointStore(home.checkpoints)
        await gc.sweep(store, ledger)
        model = await stack.enter_async_context(model_servers.client(home, settings, run_dir))
        trainer = await stack.enter_async_context(TrainerClient(run_dir))
        model_digest = await ledger.read(queries.model_digest)
        server = model_servers.configured(home, settings, run_dir, ledger, model, model_digest)
        crew = ProcessSupervisor(
            run_dir=run_dir,
            checkpoints=home.checkpoints,
            logs=home.path / "logs",
            threads=settings.model.threads,
            ledger=ledger,
            server=server,
            trainer=trainer,
        )
        behaviours = home.behaviours()
        evaluator = Evaluator(model=model, max_tokens=settings.pairs.max_tokens)
        monitor = Monitor(
            model=model,
            trainer=trainer,
            directory=home.path / "readout",
            layers=lambda: count_layers(server.model_dir),
            model_digest=model_digest,
            heads=lambda: attention_heads(server.model_dir),
        )
        stages = Stages(
            ledger=ledger,
            settings=settings,
            behaviours=behaviours,
            evaluator=evaluator,
            monitor=monitor,
            trainer=trainer,
            store=store,
            definitions={name: definition(b, settings.verdict.scenarios) for name, b in behaviours.items()},
        )
        service = Service(
            home=home,
            settings=settings,
            ledger=ledger,
            behaviours=behaviours,
            store=store,
            model=model,
            trainer=trainer,
            crew=crew,
            stages=stages,
            handlers=handlers(settings, ledger, behaviours, model, trainer, evaluator, stages),
        )
        crew.told = partial(service.tell, "start", "")
        if (
            not server.ours
        ):  # whose users need not come through us: what they did before we looked is not known
            service.user_asked()
        yield service


def _unforeseen(error: Exception) -> bool:
    """Whether the log should carry a traceback: not for what we raise on purpose."""
    return not isinstance(error, NightschoolError)
