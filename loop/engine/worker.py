"""The worker: takes work from the queue, calls the handler of its kind, and commits the outcome.

The worker takes a row of work from the ledger. The handler returns an `Outcome`. `loop.night.flow` names the
work that follows. One transaction commits the outcome and the new rows of work. Events in memory only wake
the worker.

Invariant: after a restart the worker goes on from the rows in the ledger. The errors of a handler are caught
only here. They are counted on the row of the work, and the other work goes on.
"""

import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import anyio
import structlog
from sqlalchemy import Connection

from agents.model.meter import metered
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
"""A function that receives the progress of work: its kind, its subject, steps done, and steps in all."""

log = structlog.get_logger()


@dataclass(kw_only=True)
class Worker:
    """The worker, which does the work that is queued in the ledger, one piece at a time."""

    ledger: Ledger
    trainer: TrainerClient
    processes: ProcessSupervisor
    users: Users
    handlers: dict[str, Handler]
    listeners: list[Listener] = field(default_factory=list)
    kind: str = ""
    """The kind of work in hand; "" while there is none."""
    running: bool = False
    """Whether `run` was called in this process."""
    _current: tuple[Work, anyio.CancelScope] | None = None
    """The work in hand, and the scope that cancels it; None while there is none."""
    _server_losses: Counter[int] = field(default_factory=Counter)
    """By id of work: how often a vLLM went away during that work."""
    _wake: anyio.Event = field(default_factory=anyio.Event)
    """Set when there may be new work."""
    _done: anyio.Event = field(default_factory=anyio.Event)
    """Set when a piece of work has ended; then replaced by a new event."""

    def wake(self) -> None:
        """Tell the worker that there may be new work; call it only after that work was committed."""
        self._wake.set()

    def announce(self, kind: str, subject: str, done: int, total: int) -> None:
        """Report the progress of a piece of work to every listener."""
        for listener in self.listeners:
            listener(kind, subject, done, total)

    def reporter(self, kind: str, subject: str) -> Progress:
        """Return the function with which a handler reports progress on a piece of work."""

        async def report(done: int, total: int) -> None:
            self.announce(kind, subject, done, total)

        return report

    async def run(self) -> None:
        """Do the work that is queued in the ledger, oldest first, until cancelled.

        After a fault of the ledger, `run` may be called again. It then repeats the work that was interrupted.
        """
        self._current, self.kind = None, ""
        await self.ledger.write(work.release_all)
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

    async def read_conversations(self) -> None:
        """Have the queued conversations read, by `run` if it is running; return when none is left."""
        kinds = tuple(kind for kind in flow.KINDS if kind not in flow.NIGHT_KINDS)
        while self.running:
            done = self._done  # read before the query, so that an end between the two is not missed
            ready, leased = [await self.ledger.read(work.counts, state) for state in ("ready", "leased")]
            if not {*ready, *leased} & {*kinds}:
                return
            await done.wait()
        while (item := await self.ledger.write(work.lease, f"pid {os.getpid()}", kinds)) is not None:
            await self._do(item)

    async def wait_closed(self, night_id: str) -> None:
        """Wait until a night has ended."""
        while True:
            done = self._done  # read before the query, so that an end between the two is not missed
            if (await self.ledger.read(queries.night, night_id)).state == "done":
                return
            await done.wait()

    async def drop(self, night_id: str, why: str) -> None:
        """Cancel the work in hand if it belongs to a night that is being ended, even during training.

        The work of kind `settle`, which closes the night, is not cancelled.

        Args:
            night_id: The night whose queued work was withdrawn.
            why: The reason, for the trainer.
        """
        if self._current is None:
            return
        item, scope = self._current
        if item.night_id == night_id and item.kind != "settle":
            scope.cancel()
            if self.processes.ready.is_set():  # otherwise the trainer would go on with the update
                with suppress(TrainerFault):
                    await self.trainer.cancel(why)

    async def _do(self, item: Work) -> None:
        """Do a piece of work and commit its outcome, or count its failure on its row."""
        try:
            with metered() as spent:
                result = await self._handle(item)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self.ledger.write(work.release, item)
            raise
        except Exception as error:  # the boundary: any error of a handler is counted on the row of its work
            if isinstance(error, _ServerWentAway) and self._may_repeat(item):
                await self.ledger.write(work.release, item)
                return
            log.warning(
                "work failed",
                kind=item.kind,
                subject=item.subject,
                error=str(error),
                exc_info=not isinstance(error, NightschoolError),  # expected errors need no traceback
            )
            if item.kind == "settle" and item.attempts + 1 >= work.MAX_ATTEMPTS:
                # If this work were quarantined, the night would stay open, and the shared weights might keep
                # an undone candidate.
                await self.ledger.write(work.release, item)
                raise
            await self.ledger.write(_fail, item, f"{type(error).__name__}: {error}")
            return
        result = replace(result, facts={**result.facts, **spent.facts()})
        await self.ledger.write(outcomes.commit, item, result, flow.follow(item, result))

    def _may_repeat(self, item: Work) -> bool:
        """Return whether to do work again during which a vLLM went away; count how often that happened.

        Return False from the last allowed attempt on: then the work itself may end the vLLM.
        """
        self._server_losses[item.id] += 1
        return self._server_losses[item.id] < work.MAX_ATTEMPTS

    async def _handle(self, item: Work) -> Outcome:
        """Run the handler of the work and return its outcome; cancel the handler if a child process dies."""
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
        """Return the handler's outcome, or the error that it raised.

        The error is returned because a task group would wrap a raised one in an exception group.
        """
        try:
            return await self.handlers[item.kind](item, self.reporter(item.kind, item.subject))
        except Exception as error:
            return error


class _ServerWentAway(NightschoolError):
    """A user's vLLM went away during a piece of work; the work is done again when the vLLM is back."""


def _fail(connection: Connection, item: Work, error: str) -> None:
    """Count a failure of a piece of work; if it is quarantined, queue the work that must follow even so."""
    if not work.is_wanted(connection, item):  # the work's subject was removed, or its night was ended
        return
    quarantined = work.fail(connection, item, error)
    outcomes.note(
        connection, "failure", item.kind, {"subject": item.subject, "error": error, "set_aside": quarantined}
    )
    if quarantined:
        for kind, subject in flow.follow_failure(item):
            work.enqueue(connection, kind, subject, item.night_id)
