"""The worker: takes work from the queue, has its handler do it, and commits the outcome.

A turn goes one way: ingest commits it, its work row is taken, a handler returns an `Outcome`, the flow names
the work that follows, and one transaction makes it all true. Events in memory only say "wake up".

Invariant: a restart resumes from rows. Errors of a handler are caught here and nowhere else, counted on the
row, and never stop the rest.
"""

import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import anyio
import structlog
from sqlalchemy import Connection

from agents.trainer.client import TrainerClient
from corpus.aliases import Progress
from corpus.errors import NightschoolError, TrainerFault
from loop.engine.processes import ProcessSupervisor
from loop.engine.yielding import Users
from loop.night import flow
from loop.night.handlers import Handler
from store import queries
from store.ledger.db import Ledger
from store.queue import outcome as outcomes
from store.queue import work
from store.queue.outcome import Outcome
from store.queue.work import Work

Listener = Callable[[str, str, int, int], None]
"""Called with the progress of a piece of work: (kind, subject, done, total)."""

log = structlog.get_logger()


@dataclass(kw_only=True)
class Worker:
    """Does the work in the ledger, one piece at a time."""

    ledger: Ledger
    trainer: TrainerClient
    processes: ProcessSupervisor
    users: Users
    handlers: dict[str, Handler]
    listeners: list[Listener] = field(default_factory=list)
    kind: str = ""
    """The kind of work in hand; "" while there is none."""
    running: bool = False
    """Whether `run` runs here."""
    _current: tuple[Work, anyio.CancelScope] | None = None
    """The work in hand, and the scope that cancels it."""
    _server_losses: Counter[int] = field(default_factory=Counter)
    """By work: how often a vLLM went away under it."""
    _wake: anyio.Event = field(default_factory=anyio.Event)
    _done: anyio.Event = field(default_factory=anyio.Event)

    def wake(self) -> None:
        """Say that there may be work. Only after it was committed."""
        self._wake.set()

    def announce(self, kind: str, subject: str, done: int, total: int) -> None:
        """Give progress to the listeners."""
        for listener in self.listeners:
            listener(kind, subject, done, total)

    def reporter(self, kind: str, subject: str) -> Progress:
        """Return what a handler calls with its progress."""

        async def report(done: int, total: int) -> None:
            self.announce(kind, subject, done, total)

        return report

    async def run(self) -> None:
        """Do the work in the ledger, oldest first, until cancelled."""
        self.running = True
        while True:
            self._wake = anyio.Event()
            item = await self.ledger.write(work.lease, f"pid {os.getpid()}")
            self.kind = "" if item is None else item.kind
            if item is not None:
                with anyio.CancelScope() as scope:
                    self._current = item, scope
                    await self._do(item)
                self._current = None
                self._done.set()
                self._done = anyio.Event()
            else:
                await self._wake.wait()

    async def wait_closed(self, night_id: str) -> None:
        """Return when a night has ended."""
        while True:
            done = self._done  # taken before the query: an end in between is not missed
            if (await self.ledger.read(queries.night, night_id)).state == "done":
                return
            await done.wait()

    async def drop(self, night_id: str, why: str) -> None:
        """Break off the work in hand of a night whose work was withdrawn, even in the middle of an update."""
        if self._current is None:
            return
        item, scope = self._current
        if item.night_id == night_id and item.kind != "settle":
            scope.cancel()
            if self.processes.ready.is_set():  # the trainer would go on with the update
                with suppress(TrainerFault):
                    await self.trainer.cancel(why)

    async def _do(self, item: Work) -> None:
        """Bring a piece of work to its end, or count its failure on its row."""
        try:
            result = await self._handle(item)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self.ledger.write(work.release, item)
            raise
        except Exception as error:  # the boundary: whatever a handler raises is counted on its row
            if isinstance(error, _ServerWentAway) and self._may_repeat(item):
                await self.ledger.write(work.release, item)
                return
            log.warning(
                "work failed",
                kind=item.kind,
                subject=item.subject,
                error=str(error),
                exc_info=not isinstance(error, NightschoolError),  # no traceback of what is raised on purpose
            )
            if item.kind == "settle" and item.attempts + 1 >= work.MAX_ATTEMPTS:
                # Quarantined, it would leave the night open and an undone candidate in the shared weights.
                await self.ledger.write(work.release, item)
                raise
            await self.ledger.write(_fail, item, f"{type(error).__name__}: {error}")
            return
        await self.ledger.write(outcomes.commit, item, result, flow.follow(item, result))

    def _may_repeat(self, item: Work) -> bool:
        """Return whether to repeat work under which a vLLM ended: not if it always ends under this work."""
        self._server_losses[item.id] += 1
        return self._server_losses[item.id] < work.MAX_ATTEMPTS

    async def _handle(self, item: Work) -> Outcome:
        """Run the handler; when a child process dies under it, give it up at once."""
        if item.kind not in flow.NIGHT_KINDS:
            return await self.handlers[item.kind](item, self.reporter(item.kind, item.subject))
        await self.processes.ready.wait()
        lost, result = self.processes.lost, None
        async with anyio.create_task_group() as tasks:

            async def give_up() -> None:
                await lost.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(give_up, name="watch the child processes")
            if item.kind == "train":
                tasks.start_soon(self.users.yield_update, item.night_id, name="yield to users")
            result = await self._outcome_or_error(item)
            tasks.cancel_scope.cancel()
        if isinstance(result, Outcome):
            return result
        if await self.processes.server_went(lost):
            raise _ServerWentAway(
                f"vLLM went away under this work: see its log ({result or 'it was broken off'})"
            )
        raise result or NightschoolError("a child process died during this work")

    async def _outcome_or_error(self, item: Work) -> Outcome | Exception:
        """Return the handler's outcome or error, so that a task group does not wrap the error."""
        try:
            return await self.handlers[item.kind](item, self.reporter(item.kind, item.subject))
        except Exception as error:
            return error


class _ServerWentAway(NightschoolError):
    """A user's vLLM went away under a piece of work, which is done again when it is back."""


def _fail(connection: Connection, item: Work, error: str) -> None:
    """Count a failure; when the work is quarantined, queue the work that must follow all the same."""
    if not work.is_wanted(connection, item):  # its subject was removed, or its night was ended
        return
    quarantined = work.fail(connection, item, error)
    outcomes.note(
        connection, "failure", item.kind, {"subject": item.subject, "error": error, "set_aside": quarantined}
    )
    if quarantined:
        for kind, subject in flow.follow_failure(item):
            work.enqueue(connection, kind, subject, item.night_id)
