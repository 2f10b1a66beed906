"""The operations on a home; they are the same in a running service and in a command that works alone.

Invariant: an operation takes values that JSON can carry and returns a record of `results/`. When a service
runs an operation for the command line, the command line uses the method's return annotation to turn the JSON
answer back into that record. This module knows nothing about the command line or HTTP.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, get_type_hints

import anyio
import anyio.to_thread

from agents.ingest.read import ingest_paths
from agents.ingest.sources import stored_path
from agents.model.steering.directions import load_known, requested_strengths
from agents.readout.concept_vectors import METHODS
from corpus.aliases import Json
from corpus.errors import GateRefused, UsageError
from loop.config import MAX_SEED
from loop.lessons.operations import LESSONS, LessonOperations
from loop.night import flow
from loop.night.measure import measure_scenarios
from loop.night.propose import refusal
from loop.operations import forget as forgetting
from loop.operations import readouts
from loop.operations import rollback as rolling_back
from loop.operations.dry_run import dry_run as compute_steps
from loop.operations.prune import prune
from loop.operations.readouts import TrainOptions
from loop.operations.results.checkpoints import ImmediateRollback, Pin, Prune, Rollback
from loop.operations.results.home import Forgotten, Ingested, Pause
from loop.operations.results.nights import (
    Answer,
    CancelledUpdate,
    DryRun,
    Measured,
    NightBegun,
    NightResult,
    PassRate,
)
from loop.operations.results.preview import ingested
from loop.operations.results.readouts import BehaviourVector, Readings, Sweeps, TrainedVectors, VectorQuality
from loop.operations.steering import Steering
from store import queries
from store.checkpoints.retention import Policy
from store.conversations import files, forget
from store.conversations.privacy import cleaner
from store.ledger.records import save
from store.nights import history, report
from store.queue import work
from store.task_vectors import merges

POLL_S = 0.05
"""Seconds between two checks of whether an update has ended."""


@dataclass(frozen=True, kw_only=True)
class Operations(LessonOperations):
    """The operations on one opened service."""

    async def night(
        self, *, seed: int | None = None, retry: bool = False, dry_run: bool = False
    ) -> NightResult | DryRun:
        """Run one night now and return its result; a dry run returns only the training steps.

        Args:
            seed: The seed of the night; None for the configured one.
            retry: Whether to learn again from the pairs of undone updates.
            dry_run: Whether to compute the training steps and change nothing.
        """
        if dry_run:
            return await compute_steps(self.service, seed=self._seed(seed), retry=retry)
        began = monotonic()
        return await self._ended((await self.begin(seed=seed, retry=retry)).night, began)

    async def begin(self, *, seed: int | None = None, retry: bool = False) -> NightBegun:
        """Begin a night, unless one is running; return its id without waiting for its end."""
        await self.service.processes.wait_server()
        return NightBegun(night=await self.service.begin_night(seed=self._seed(seed), retry=retry))

    async def ingest(self, *, paths: list[str], format: str | None = None, ratings: str = "") -> Ingested:
        """Read logs into the ledger, and return what was read.

        Args:
            paths: Log files, or folders of them.
            format: Format of the logs; None to recognise it from the content.
            ratings: The scale of all ratings, such as 1..5; "" to find it from the numbers of each file.
        """
        files = [Path(path) for path in paths]
        report = await ingest_paths(self.service.ledger, files, format, ratings=ratings)
        self.service.worker.wake()
        return ingested(report)

    async def ask(self, *, text: str, steer: dict[str, float] | None = None) -> Answer:
        """Ask the served model one question and return the answer.

        Args:
            text: The question.
            steer: Strength of steering by concept; None for no steering.
        """
        if steer is not None:  # checked before the request is sent, so that a mistake is a usage error
            steer = requested_strengths(steer, load_known(self.service.context.monitor.directory))
        await self.service.processes.wait_ready()
        self.service.users.asked()
        reply = await self.service.model.chat(
            [{"role": "user", "content": text}], max_tokens=200, steer=steer
        )
        active = await self.service.ledger.read(queries.active)
        return Answer(answer=reply.text, checkpoint=active.id, weights_sha256=active.weights_sha256)

    async def rollback(
        self, *, target: str | None = None, dry_run: bool = False, now: bool = False
    ) -> ImmediateRollback | Rollback:
        """Make an earlier kept checkpoint active, serve it, and return what that changed: see `roll_back`."""
        return await rolling_back.roll_back(self.service, target=target, dry_run=dry_run, now=now)

    async def merge(
        self,
        *,
        vectors: list[str],
        method: str = "arithmetic",
        density: float | None = None,
        seed: int | None = None,
    ) -> NightResult:
        """Add task vectors to the active checkpoint in a night of its own, and return its result.

        Args:
            vectors: The task vectors, each `VECTOR` or `VECTOR=WEIGHT`.
            method: Method of the merge: arithmetic or ties.
            density: Share of each tensor's values that the method ties keeps; None for the default.
            seed: The seed of the night; None for the configured one.
        """
        service, began, seed = self.service, monotonic(), self._seed(seed)
        plan = await service.ledger.read(merges.plan, vectors, method, density)
        active = await service.ledger.read(queries.active)
        if reason := refusal(service.context, active.id):
            raise GateRefused(reason)
        await anyio.to_thread.run_sync(self._require_readable, [active.id, *plan.checkpoints()])
        await service.processes.wait_server()
        begin = partial(merges.begin, plan=plan, parent_id=active.id, seed=seed)
        night_id = await service.ledger.write(partial(begin, work=flow.merging(service.context.measured)))
        service.worker.wake()
        return await self._ended(night_id, began)

    async def _ended(self, night_id: str, began: float) -> NightResult:
        """Wait until a night has ended, and return its result; `began` is by the monotonic clock."""
        service = self.service
        await service.worker.wait_closed(night_id)
        again = await service.ledger.read(queries.repeat_of, night_id)
        if again is not None:  # the same update without one source, whose result is that of the night
            return await self._ended(again, began)
        night = await service.ledger.read(
            report.night_report, night_id, service.behaviours, service.context.definitions
        )
        return NightResult(**vars(night), seconds=round(monotonic() - began, 1))

    def _require_readable(self, checkpoint_ids: list[str]) -> None:
        """Raise an error if the weights of one of these checkpoints are damaged."""
        for checkpoint_id in sorted(set(checkpoint_ids)):
            self.service.store.load_weights(checkpoint_id)

    async def pin(self, *, target: str) -> Pin:
        """Protect a checkpoint from `prune`, and return whether that changed anything."""
        return await self._set_pinned(target, True)

    async def unpin(self, *, target: str) -> Pin:
        """Allow `prune` to delete a checkpoint's files again, and return whether that changed anything."""
        return await self._set_pinned(target, False)

    async def _set_pinned(self, target: str, pinned: bool) -> Pin:
        row = await self.service.ledger.write(history.set_pinned, target, pinned)
        return Pin(checkpoint=row.id, number=row.number, pinned=pinned, changed=row.pinned != pinned)

    async def prune(
        self, *, keep_last: int = 0, keep_daily: int = 0, dry_run: bool = False, empty_trash: bool = False
    ) -> Prune:
        """Move the files of the checkpoints that the rules of `Policy` do not keep to the trash.

        Args:
            keep_last: As in `Policy`.
            keep_daily: As in `Policy`; with `empty_trash`, both may be 0, and nothing is pruned.
            dry_run: Whether to change nothing.
            empty_trash: Whether to delete all that is in the trash afterwards.
        """
        only_trash = empty_trash and not (keep_last or keep_daily)
        policy = None if only_trash else Policy(keep_last=keep_last, keep_daily=keep_daily)
        return await prune(self.service, policy, dry_run=dry_run, empty_trash=empty_trash)

    async def forget(
        self, *, source: str, path: str, dry_run: bool = False, rollback: bool = False
    ) -> Forgotten:
        """Remove conversations and all that was derived from them, and return a report.

        The report names the updates that learnt from these conversations.

        Args:
            source: Name of the source, conversation or log to remove.
            path: The same name as an absolute path, in case it is a log file.
            dry_run: Whether to change nothing.
            rollback: Whether to roll back to the last kept checkpoint before any update learnt from them.
        """
        ledger, inbox, stored = self.service.ledger, self.service.home.inbox, stored_path(Path(path))
        in_ledger = await ledger.read(forget.look, source, stored)
        target = in_ledger.rollback_to if rollback else None
        if target is not None:  # refuse an impossible rollback before anything is removed
            await self.rollback(target=target, dry_run=True)
        formats, clean = await ledger.read(files.formats_of), await ledger.read(cleaner)
        left = await anyio.to_thread.run_sync(forgetting.logs_with, inbox, in_ledger, formats, clean)
        if dry_run:
            tombstones = in_ledger.derived.tombstones
            lines = await anyio.to_thread.run_sync(forgetting.count_captured, inbox, tombstones, clean)
            return forgetting.report(source, in_ledger, lines, left, dry_run=True)
        forgotten, lines = await ledger.write(
            forgetting.forget_everywhere, inbox, source, stored, target is not None
        )
        rolled_back = rollback and forgotten.rollback_to is not None
        if forgotten.rollback_to is not None and rolled_back:
            await rolling_back.serve(self.service, forgotten.rollback_to)
        result = forgetting.report(source, forgotten, lines, left, dry_run=False, rolled_back=rolled_back)
        return replace(result, wiped=await anyio.to_thread.run_sync(ledger.wipe))

    async def measure(self, *, seed: int | None = None) -> Measured:
        """Measure and return the pass rates of the active weights on the held-out scenarios."""
        service, seed = self.service, self._seed(seed)
        if await service.ledger.read(queries.running_night) is not None:
            raise GateRefused(
                "a night is running, and measures anyway: wait for its end (`nightschool status`)"
            )
        await service.processes.wait_ready()
        weights = (await service.ledger.read(queries.active)).weights_sha256
        rates = []
        for behaviour in report.ordered(service.behaviours):
            taken = await measure_scenarios(
                service.context,
                behaviour.name,
                seed=seed,
                weights_sha256=weights,
                report=service.worker.reporter("measure", behaviour.name),
            )
            await service.ledger.write(save, taken.new)
            rates.append(
                PassRate(
                    name=behaviour.name,
                    counter_of=behaviour.counter_of,
                    passed=taken.outcomes.count("1"),
                    trials=len(taken.outcomes),
                )
            )
        return Measured(weights_sha256=weights, behaviours=rates)

    def _seed(self, wanted: int | None) -> int:
        """Return the wanted seed, or the configured one if it is None; raise `UsageError` for a bad seed."""
        seed = self.service.settings.seed if wanted is None else wanted
        if not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
            raise UsageError(f"a seed is a whole number from 0 to {MAX_SEED}, not {seed}")
        return seed

    async def pause(self) -> Pause:
        """Suspend scheduled nights, and an update that is being trained, until `resume` is called."""
        return await self._set_paused(True)

    async def resume(self) -> Pause:
        """Resume scheduled nights, and an update that `pause` made wait."""
        return await self._set_paused(False)

    async def _set_paused(self, paused: bool) -> Pause:
        await self.service.ledger.write(history.set_paused, paused)
        self.service.worker.wake()
        return Pause(paused=paused)

    async def cancel(self) -> CancelledUpdate:
        """Cancel the update that is being trained, restore the weights, end the night, and return the update.

        Raises:
            GateRefused: No update is being trained, or its training has ended meanwhile.
        """
        service, cancelled = self.service, None
        while night_id := await service.ledger.read(work.leased, "train"):
            # Repeat until the work has ended: training may not have begun, or the trainer may be restarting.
            if service.processes.ready.is_set() and await service.trainer.cancel("cancelled by hand"):
                cancelled = night_id
            await anyio.sleep(POLL_S)
        if cancelled is None:
            raise GateRefused("no update is being trained: nothing was changed (see `nightschool status`)")
        await service.worker.wait_closed(cancelled)
        update = await service.ledger.read(queries.update_of, cancelled)
        if update is None or update.state != "refused":
            raise GateRefused(
                "the update was trained before it could be cancelled: `nightschool status` has its verdict"
            )
        return CancelledUpdate(night=cancelled, update=update.id, reasons=update.reasons)

    async def readout_train(
        self,
        *,
        layers: Any = None,
        method: str = METHODS[0],
        corpus: str | None = None,
        minimum: int | None = None,
    ) -> TrainedVectors:
        """Estimate the concept vectors on the active weights and store them: see `readouts.TrainOptions`."""
        options = TrainOptions.parse(layers=layers, method=method, corpus=corpus, minimum=minimum)
        return await readouts.train(self.service, options)

    async def check_training(self, **options: Any) -> None:
        """Raise `UsageError` for bad arguments of `readout_train`; no model is loaded."""
        readouts.check_training(self.service, TrainOptions.parse(**options))

    async def readout_report(self, *, layer: int | None = None) -> VectorQuality:
        """Return the quality of each concept's vector on the active weights, at the given layer."""
        await self.check_reading(layer=layer)
        return await readouts.quality(self.service, layer=layer)

    async def readout_show(
        self, *, turns: list[dict[str, str]], concepts: list[str] | None = None, layer: int | None = None
    ) -> Readings:
        """Return a conversation's readings at the end of each turn: see `readouts.readings`."""
        await self.check_reading(turns=turns, concepts=concepts, layer=layer)
        return await readouts.readings(self.service, turns=turns, concepts=concepts or (), layer=layer)

    async def check_reading(self, **options: Any) -> None:
        """Raise an error for bad arguments of `readout_report` or `readout_show`; no model is loaded."""
        readouts.check_reading(self.service, **options)

    async def readout_sweep(
        self,
        *,
        concept: str,
        behaviours: list[str],
        strengths: list[float] | None = None,
        seed: int | None = None,
    ) -> Sweeps:
        """Measure behaviours at several strengths of steering by a concept: see `Steering.sweep`."""
        steering = Steering(service=self.service)
        return await steering.sweep(concept, behaviours, strengths, seed=self._seed(seed))

    async def readout_behaviour(self, *, behaviour: str, seed: int | None = None) -> BehaviourVector:
        """Estimate a behaviour's vector, steer by it, and return the recorded prediction for its training."""
        return await Steering(service=self.service).behaviour(behaviour, seed=self._seed(seed))


NEEDS_PROCESSES = (
    "night",
    "merge",
    "ask",
    "measure",
    "readout_train",
    "readout_report",
    "readout_show",
    "readout_sweep",
    "readout_behaviour",
)
"""Names of the operations that need the model server and the trainer; the others need only the ledger."""
CHECKED = {
    "readout_train": "check_training",
    "readout_report": "check_reading",
    "readout_show": "check_reading",
}
"""For some operations, the method that checks their arguments before a model is loaded."""
NEEDS_VLLM_IF_UP = ("rollback", "forget")
"""Names of the operations that need both while a vLLM runs, because they change its weights."""

NAMES = (
    *NEEDS_PROCESSES,
    "ingest",
    "rollback",
    "forget",
    *LESSONS,
    "pause",
    "resume",
    "cancel",
    "pin",
    "unpin",
    "prune",
)
"""Names of the operations that the command line and HTTP may call."""


def keeps_weights(name: str, arguments: Json) -> bool:
    """Return whether an operation leaves the weights unchanged: a dry run, or `forget` without a rollback.

    Args:
        name: Name of the operation.
        arguments: Its arguments, by name.
    """
    return bool(arguments.get("dry_run")) or (name == "forget" and not arguments.get("rollback"))


def result_kind(name: str) -> Any:
    """Return the type of an operation's result: a record, or a union of records."""
    return get_type_hints(getattr(Operations, name))["return"]
