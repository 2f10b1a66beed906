"""What a user can have done to a home: the same whether a service holds it or the command does the work itself.

Invariant: every operation takes and returns JSON-able values, so that the command line and the service's HTTP
carry the same thing. Knows neither.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import anyio
import anyio.to_thread

from agents.ingest.files import stored_path
from agents.ingest.read import ingest_paths
from agents.model.steering.directions import load_known, requested_strengths
from agents.readout.concept_vectors import METHODS
from corpus.aliases import Json
from corpus.errors import GateRefused, UsageError
from corpus.json_edge import to_json
from loop.config import MAX_SEED
from loop.engine.service import Service
from loop.night import flow
from loop.night.measure import measure_round
from loop.night.propose import refusal
from loop.operations import forget as forgetting
from loop.operations import readout_training, readout_views
from loop.operations import rollback as going_back
from loop.operations.dry_run import rehearse
from loop.operations.prune import prune
from loop.operations.steering import Steering
from store import queries
from store.checkpoints.retention import Policy
from store.conversations import conversations as kept
from store.conversations import forget
from store.ledger.records import save
from store.nights import history, report
from store.queue import work
from store.task_vectors import merges

CHECK_S = 0.05
"""Between two looks at an update that is to end."""


@dataclass(frozen=True, kw_only=True)
class Operations:
    """The operations on one opened service."""

    service: Service

    async def night(self, *, seed: int | None = None, retry: bool = False, dry_run: bool = False) -> Json:
        """One cycle now, to its end; or what it would train on, with nothing changed."""
        if dry_run:
            return await rehearse(self.service, seed=self._seed(seed), retry=retry)
        began = monotonic()
        return await self._ended((await self.begin(seed=seed, retry=retry))["night"], began)

    async def begin(self, *, seed: int | None = None, retry: bool = False) -> Json:
        """Begin a cycle now, or name the one that is running; its end is not waited for."""
        await self.service.processes.wait_server()
        return {"night": await self.service.begin_night(seed=self._seed(seed), retry=retry)}

    async def ingest(self, *, paths: list[str], format: str | None = None) -> Json:
        """Read logs into the ledger."""
        told = await ingest_paths(self.service.ledger, [Path(path) for path in paths], format)
        self.service.worker.wake()
        return dict(told.as_json())

    async def ask(self, *, text: str, steer: dict[str, float] | None = None) -> Json:
        """One question to the served model, steered by these concepts, each with its strength."""
        if (
            steer is not None
        ):  # here rather than by the server, so that it is told for a mistake of the user's
            steer = requested_strengths(steer, load_known(self.service.context.monitor.directory))
        await self.service.processes.wait_ready()
        self.service.users.asked()
        reply = await self.service.model.chat(
            [{"role": "user", "content": text}], max_tokens=200, steer=steer
        )
        active = await self.service.ledger.read(queries.active)
        return {"answer": reply.text, "checkpoint": active.id, "weights_sha256": active.weights_sha256}

    async def rollback(self, *, target: str | None = None, dry_run: bool = False, now: bool = False) -> Json:
        """Point at an earlier kept checkpoint and serve it; with `now` a night that runs is ended first."""
        return await going_back.roll_back(self.service, target=target, dry_run=dry_run, now=now)

    async def merge(
        self,
        *,
        vectors: list[str],
        method: str = "arithmetic",
        density: float | None = None,
        seed: int | None = None,
    ) -> Json:
        """Add task vectors, each `VECTOR` or `VECTOR=WEIGHT`, to the active checkpoint, as a night with a verdict."""
        service, began, seed = self.service, monotonic(), self._seed(seed)
        plan = await service.ledger.read(merges.plan, vectors, method, density)
        active = await service.ledger.read(queries.active)
        if reason := refusal(service.context, active.id):
            raise GateRefused(reason)
        await anyio.to_thread.run_sync(self._readable, [active.id, *plan.checkpoints()])
        await service.processes.wait_server()
        begin = partial(merges.begin, plan=plan, parent_id=active.id, seed=seed)
        night_id = await service.ledger.write(partial(begin, work=flow.merging(tuple(service.behaviours))))
        service.worker.wake()
        return await self._ended(night_id, began)

    async def _ended(self, night_id: str, began: float) -> Json:
        """What a night came to, at its end."""
        service = self.service
        await service.worker.wait_closed(night_id)
        told = await service.ledger.read(
            report.night_report, night_id, service.behaviours, service.context.definitions
        )
        return {**to_json(told), "seconds": round(monotonic() - began, 1)}

    def _readable(self, checkpoint_ids: list[str]) -> None:
        """Refuse when the weights of one of these are damaged."""
        for checkpoint_id in sorted(set(checkpoint_ids)):
            self.service.store.load_weights(checkpoint_id)

    async def pin(self, *, target: str) -> Json:
        """Have `prune` never take a checkpoint."""
        return await self._set_pinned(target, True)

    async def unpin(self, *, target: str) -> Json:
        """Let `prune` take a checkpoint again."""
        return await self._set_pinned(target, False)

    async def _set_pinned(self, target: str, pinned: bool) -> Json:
        row = await self.service.ledger.write(history.set_pinned, target, pinned)
        return {
            "checkpoint": row.id,
            "number": row.number,
            "pinned": pinned,
            "changed": row.pinned != pinned,
        }

    async def prune(self, *, keep_last: int = 0, keep_daily: int = 0, dry_run: bool = False) -> Json:
        """Give up the files of the checkpoints that no rule keeps."""
        policy = Policy(keep_last=keep_last, keep_daily=keep_daily)
        return await prune(self.service, policy, dry_run=dry_run)

    async def forget(self, *, source: str, path: str, dry_run: bool = False, rollback: bool = False) -> Json:
        """Remove conversations and all that was derived from them, and name the updates that learnt from it."""
        ledger, inbox, stored = self.service.ledger, self.service.home.inbox, stored_path(Path(path))
        found = await ledger.read(forget.look, source, stored)
        back = rollback and found.rollback_to is not None
        if back:  # what cannot be rolled back is said before anything is gone
            await self.rollback(target=found.rollback_to, dry_run=True)
        formats = await ledger.read(kept.formats_of)
        files = await anyio.to_thread.run_sync(forgetting.holding, inbox, found, formats)
        if dry_run:
            emptied = await anyio.to_thread.run_sync(forgetting.captured, inbox, found.derived.tombstones)
            return forgetting.told(source, found, emptied, files, dry_run=True)
        found, emptied = await ledger.write(forgetting.carry_out, inbox, source, stored, back)
        told = forgetting.told(source, found, emptied, files, dry_run=False)
        if back and found.rollback_to is not None:
            await going_back.serve(self.service, found.rollback_to)
            told |= {"rolled_back": True, "commands": told["commands"][1:]}
        return {**told, "wiped": await anyio.to_thread.run_sync(ledger.wipe)}

    async def measure(self, *, seed: int | None = None) -> Json:
        """Pass rates of the active weights on the held-out scenarios."""
        service, seed = self.service, self._seed(seed)
        if await service.ledger.read(queries.running_night) is not None:
            raise GateRefused("a night is running and measures by itself: wait for it (`nightschool status`)")
        await service.processes.wait_ready()
        active = await service.ledger.read(queries.active)
        weights = active.weights_sha256
        measured = []
        for behaviour in report.ordered(service.behaviours):
            reporter = service.worker.reporter("measure", behaviour.name)
            row = await measure_round(
                service.context,
                behaviour.name,
                seed=seed,
                round_=0,
                weights_sha256=weights,
                report=reporter,
            )
            await service.ledger.write(save, (row,))
            figures = {"passed": row.outcomes.count("1"), "trials": len(row.outcomes)}
            measured.append({"name": behaviour.name, "counter_of": behaviour.counter_of, **figures})
        return {"weights_sha256": weights, "behaviours": measured}

    def _seed(self, wanted: int | None) -> int:
        """The seed that was given, else that of the configuration."""
        seed = self.service.settings.seed if wanted is None else wanted
        if not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
            raise UsageError(f"a seed is a whole number from 0 to {MAX_SEED}, not {seed}")
        return seed

    async def pause(self) -> Json:
        """No night begins by itself, and an update that is being trained waits, until `resume`."""
        return await self._set_paused(True)

    async def resume(self) -> Json:
        """Nights may begin by themselves again, and an update that waits goes on."""
        return await self._set_paused(False)

    async def cancel(self) -> Json:
        """End the update that is being trained, with the weights undone, and its night."""
        service, cancelled = self.service, None
        while night_id := await service.ledger.read(work.leased, "train"):
            # Again until the work has ended: its pairs may still be made ready, or the trainer be started again.
            if service.processes.ready.is_set() and await service.trainer.cancel("cancelled by hand"):
                cancelled = night_id
            await anyio.sleep(CHECK_S)
        if cancelled is None:
            raise GateRefused("no update is being trained: nothing was changed (see `nightschool status`)")
        await service.worker.wait_closed(cancelled)
        update = await service.ledger.read(queries.update_of, cancelled)
        if update is None or update.state != "refused":
            raise GateRefused(
                "the update was trained before it could be cancelled: `nightschool status` says what became of it"
            )
        return {"night": cancelled, "update": update.id, "reasons": update.reasons}

    async def readout_train(
        self,
        *,
        layers: Any = None,
        method: str = METHODS[0],
        corpus: str | None = None,
        minimum: int | None = None,
    ) -> Json:
        """Estimate the concept vectors on the active weights and keep them in the home: see `readout_training.check`."""
        return await readout_training.train(
            self.service, layers=layers, method=method, corpus=corpus, minimum=minimum
        )

    async def readout_check(self, **asked: Any) -> None:
        """What of `readout_train` can be refused before a model is loaded."""
        readout_training.check(self.service, **asked)

    async def readout_report(self, *, layer: int | None = None) -> Json:
        """Whether each concept's vector is any good, on the active weights."""
        await self.look_check(layer=layer)
        return await readout_views.report(self.service, layer=layer)

    async def readout_show(
        self, *, turns: list[dict[str, str]], concepts: list[str] | None = None, layer: int | None = None
    ) -> Json:
        """The readings of a conversation over its turns, on the active weights."""
        await self.look_check(turns=turns, concepts=concepts, layer=layer)
        return await readout_views.show(self.service, turns=turns, concepts=concepts, layer=layer)

    async def look_check(self, **asked: Any) -> None:
        """What of `readout_report` and `readout_show` can be refused before a model is loaded."""
        readout_views.check(self.service, **asked)

    async def readout_sweep(
        self,
        *,
        concept: str,
        behaviours: list[str],
        strengths: list[float] | None = None,
        seed: int | None = None,
    ) -> Json:
        """A concept at several strengths against the pass rates of these behaviours, or of those it belongs to."""
        found = await Steering(service=self.service).sweep(
            concept, behaviours, strengths, seed=self._seed(seed)
        )
        return {"concept": concept, "sweeps": found}

    async def readout_behaviour(self, *, behaviour: str, seed: int | None = None) -> Json:
        """A behaviour's vector, what steering by it does, and what was predicted of training it."""
        return await Steering(service=self.service).behaviour(behaviour, seed=self._seed(seed))

    async def _set_paused(self, paused: bool) -> Json:
        await self.service.ledger.write(history.set_paused, paused)
        self.service.worker.wake()
        return {"paused": paused}


NEEDS_CREW = (
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
"""Operations that need the model server and the trainer; the others only need the ledger."""
CHECKED = {"readout_train": "readout_check", "readout_report": "look_check", "readout_show": "look_check"}
"""Operations that are looked over before a model is loaded for them."""
AFTER_CREW = ("rollback", "forget")
"""Operations that need them where a vLLM is up, for it serves on what was taken back."""

NAMES = (*NEEDS_CREW, "ingest", "rollback", "forget", "pause", "resume", "cancel", "pin", "unpin", "prune")
"""The operations that the command line and the HTTP may name."""


def is_quiet(name: str, arguments: Json) -> bool:
    """Whether this operation leaves the weights alone: a dry run, or forgetting without a rollback."""
    return bool(arguments.get("dry_run")) or (name == "forget" and not arguments.get("rollback"))
