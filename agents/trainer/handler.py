"""The trainer's handler: one planned update, from its pairs to a candidate checkpoint.

Invariant: it starts from the parent's weights whatever the mapping holds, and ends with a candidate on disk
or with the parent's weights back and the reason. Done again after a crash, it ends with the same candidate.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import anyio
from pydantic import Field

from agents.model.client import ModelClient
from agents.model.steering.directions import digest, to_directions
from agents.trainer.client import OnStep, TrainerClient
from agents.trainer.messages import Example, Objective, Settings, StepReport, TrainRequest
from agents.trainer.wire import load
from corpus.errors import GateRefused, StepRefused, TrainerFault, UpdateCancelled, UsageError, WriteFailed
from store import queries
from store.ledger.db import Ledger, now
from store.ledger.records import Checkpoint, Step
from store.nights import history
from store.queue.outcome import Change, Outcome
from store.queue.work import Work
from store.task_vectors.recipe import Part

PINNED = ("reference_id", "chosen_logprob", "rejected_logprob")
"""Columns of a pair: its reference, and whose weights gave it."""
FALL = 0.1
"""Nats a token that the chosen answers may lose over an update without an alarm."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(Settings):
    """How an update trains; everything of Apollo's, and the objective."""

    __pydantic_config__ = {"extra": "forbid"}

    lr: Annotated[float, Field(gt=0, le=10)] = 1e-3
    """Peak learning rate. The default suits the shipped model; for a 27B model ORPO wants about 1e-6, DPO
    5e-7, SFT 1e-5."""
    batch_size: int = 16
    """Pairs in one step."""
    beta: Annotated[float, Field(ge=0, le=1000)] = 0.25
    """Lambda of ORPO; beta of DPO, DPOP, SimPO and KTO."""
    enabled: bool | None = None
    """With false, no night begins by itself and one begun by hand does everything but the update. Unset:
    true, but false with `model.url`."""
    objective: Objective = "orpo"
    """Training objective: orpo, dpo, dpop, simpo, kto or sft."""
    replay: Annotated[float, Field(ge=0, le=0.9)] = 0.25
    """Part of an update that consists of kept pairs of earlier updates."""


def trainer_settings(settings: TrainingSettings) -> Settings:
    """The part of the settings that goes over the socket."""
    own = {"enabled", "objective", "replay"}
    return Settings(**{name: value for name, value in asdict(settings).items() if name not in own})


@dataclass(frozen=True, kw_only=True)
class TrainHandler:
    """Handles work of kinds `train` and `merge`: a night's planned update."""

    ledger: Ledger
    model: ModelClient
    trainer: TrainerClient
    behaviours: tuple[str, ...]
    """Names of all behaviours: each is measured after an update."""
    readout: Path
    """Where the home's concept vectors are."""

    async def hold(self, checkpoint_id: str, *, settled: bool) -> None:
        """Make the mapping hold exactly this checkpoint's weights."""
        await self.trainer.rollback(checkpoint_id, settled=settled)

    async def handle(self, item: Work, report: Callable[[int, int], Awaitable[None]]) -> Outcome:
        """Train the update and write its candidate."""
        update = await self.ledger.read(queries.update_of, item.night_id)
        if update is None:
            raise TrainerFault(f"night {item.night_id} has no planned update")
        pairs = await self.ledger.read(queries.pairs_of, update["id"])
        await self.hold(update["parent_id"], settled=False)
        examples, pins = await self._examples(pairs, update["parent_id"])
        try:
            request = self._request(update, examples)
            reports = await self._train(request, report)
            candidate = await self._candidate(update, item.night_id, len(reports), **_prevented(request))
        except UpdateCancelled as cancelled:
            return _cancelled(update, str(cancelled), pins)
        except (StepRefused, GateRefused, UsageError, WriteFailed) as refused:
            return _refused(update, str(refused), pins)
        steps = [Step(update_id=update["id"], step=r.step, metrics=dict(r.metrics)) for r in reports]
        return replace(
            candidate,
            records=(*candidate.records, *steps),
            changes=(*candidate.changes, *pins),
            facts={**candidate.facts, "steps": len(reports), **alarms(reports)},
        )

    async def merge(self, item: Work, report: Callable[[int, int], Awaitable[None]]) -> Outcome:
        """Work of kind `merge`: add the update's task vectors, and write the candidate."""
        update = await self.ledger.read(queries.update_of, item.night_id)
        if update is None:
            raise TrainerFault(f"night {item.night_id} has no planned merge")
        settings = update["settings"]
        parts = [Part(start=p["start"], end=p["end"], weight=p["weight"]) for p in settings["parts"]]
        await self.hold(update["parent_id"], settled=False)
        try:
            moved = await self.trainer.merge(
                update["parent_id"], parts, method=settings["method"], density=settings["density"] or 1.0
            )
            candidate = await self._candidate(update, item.night_id, 0)
        except (GateRefused, WriteFailed) as refused:
            return _refused(update, str(refused), [])
        return replace(candidate, facts={**candidate.facts, **asdict(moved)})

    async def _candidate(self, update: queries.Row, night_id: str, steps: int, **more: str) -> Outcome:
        """Have the mapping written as the update's candidate; `more` goes into its manifest."""
        night = await self.ledger.read(queries.night, night_id)
        fields = {"cursor": night["cursor"], "seed": update["seed"], "settings": update["settings"]}
        fields |= {"objective": update["objective"], **more}
        written = await self.trainer.checkpoint(update["parent_id"], fields)
        candidate = Checkpoint(
            id=written.id,
            parent_id=update["parent_id"],
            number=len(await self.ledger.read(queries.checkpoints)),
            weights_sha256=written.weights_sha256,
            update_id=update["id"],
            state="candidate",
            at=now(),
        )
        trained = {"state": "trained", "checkpoint_id": written.id, "steps": steps}
        return Outcome(
            decision="trained",
            names=self.behaviours,
            records=(candidate,),
            changes=(Change(table="updates", where={"id": update["id"]}, values=trained),),
            facts={"checkpoint": written.id},
        )

    async def rehearse(self, update: queries.Row, pairs: list[queries.Row], on_step: OnStep) -> None:
        """Have every step that these pairs would make computed, and none made; `on_step` gets each.

        update: `objective`, `settings`, `seed` and `parent_id`, which the mapping must hold.
        """
        examples, _ = await self._examples(pairs, update["parent_id"])
        await self.trainer.train(replace(self._request(update, examples), dry_run=True), on_step)

    def _request(self, update: queries.Row, examples: list[Example]) -> TrainRequest:
        """The update as it is asked for; `UsageError` where it is to be steered by what there is no vector of."""
        settings = load(Settings, update["settings"])
        return TrainRequest(
            objective=update["objective"],
            settings=settings,
            seed=update["seed"],
            parent=update["parent_id"],
            examples=examples,
            prevent=to_directions(settings.prevent, self.readout),
        )

    async def _train(
        self, request: TrainRequest, report: Callable[[int, int], Awaitable[None]]
    ) -> tuple[StepReport, ...]:
        """Run the update, telling of each step as it is made."""
        send, receive = anyio.create_memory_object_stream[StepReport](10_000)
        fault = None
        async with anyio.create_task_group() as tasks, send:

            async def tell() -> None:
                async with receive:
                    async for step in receive:
                        await report(step.step, step.steps)

            tasks.start_soon(tell, name="tell of steps")
            try:
                result = await self.trainer.train(request, send.send_nowait)
            except (
                TrainerFault
            ) as refused:  # raised here it would leave the task group wrapped, and be no refusal
                fault = refused
            send.close()
        if fault is not None:
            raise fault
        return result.reports

    async def _examples(self, pairs: list[queries.Row], parent_id: str) -> tuple[list[Example], list[Change]]:
        """The pairs as token ids, with references under the parent's weights, and these pinned to their rows.

        All are computed together, also those that are pinned to this parent already: the last bits depend on what
        else is in a pass, and an update that is made again after a rollback has to come to the same checkpoint.
        """
        sides = await self._sides(pairs)
        # Both sides one after the other: the trainer reads a context once for all answers that it scores together.
        asked = [(context, answer) for context, *answers in sides for answer in answers]
        found = [scored.total for scored in await self.trainer.logprobs(asked)]
        examples, pins = [], []
        for pair, (context, chosen, rejected), *logprobs in zip(
            pairs, sides, found[::2], found[1::2], strict=True
        ):
            examples.append(
                Example(
                    context=context,
                    chosen=chosen,
                    rejected=rejected,
                    weight=pair["trust"],
                    reference_chosen=logprobs[0],
                    reference_rejected=logprobs[1],
                )
            )
            pinned = dict(zip(PINNED, (parent_id, *logprobs), strict=True))
            pins.append(Change(table="pairs", where={"id": pair["id"]}, values=pinned))
        return examples, pins

    async def _sides(self, pairs: list[queries.Row]) -> list[tuple[list[int], list[int], list[int]]]:
        """Token ids of each pair's context, chosen and rejected answer."""
        contexts = await self.model.tokenize([pair["messages"] for pair in pairs], add_generation_prompt=True)
        sides = [contexts]
        for side in ("chosen", "rejected"):
            answered = [[*p["messages"], {"role": "assistant", "content": p[side]}] for p in pairs]
            whole = await self.model.tokenize(answered, add_generation_prompt=False)
            sides.append([_continuation(c, w) for c, w in zip(contexts, whole, strict=True)])
        return list(zip(*sides, strict=True))


def _prevented(request: TrainRequest) -> dict[str, str]:
    """Which vectors an update was steered by: the settings say how much of what."""
    return {"prevented": digest(request.prevent)} if request.prevent else {}


def _continuation(context: list[int], whole: list[int]) -> list[int]:
    """What the chat template adds to the context when the answer is there."""
    if whole[: len(context)] != context:
        raise TrainerFault(
            "the chat template changes earlier turns when an answer follows: its pairs cannot be trained"
        )
    return whole[len(context) :]


def _refused(update: queries.Row, reason: str, pins: list[Change]) -> Outcome:
    """Nothing was trained; the references that were computed stay, as a record of the parent."""
    values = {"state": "refused", "reasons": [reason]}
    return Outcome(
        decision="refused",
        changes=(Change(table="updates", where={"id": update["id"]}, values=values), *pins),
        facts={"reason": reason},
    )


def _cancelled(update: queries.Row, reason: str, pins: list[Change]) -> Outcome:
    """Its pairs are set aside, as those of an undone update: nobody wants them in the very next night."""
    set_aside = partial(history.set_update, update_id=update["id"], state="refused", reasons=[reason])
    return Outcome(decision="refused", changes=tuple(pins), then=set_aside, facts={"reason": reason})


def alarms(reports: Sequence[StepReport]) -> dict[str, str]:
    """DPO's known failure: the chosen answers become less likely while the margin grows.

    The mean of an update's first half is held against that of its second; fewer than 4 steps say nothing.
    """
    logprobs = [r.metrics["chosen_logprob"] for r in reports if "chosen_logprob" in r.metrics]
    if len(logprobs) < 4:
        return {}
    half = len(logprobs) // 2
    first, last = sum(logprobs[:half]) / half, sum(logprobs[-half:]) / half
    falling = last < first - FALL
    return (
        {"alarm": f"chosen log-probability fell from {first:.2f} to {last:.2f} nats a token"}
        if falling
        else {}
    )
