"""The trainer's handler: one planned update, from its pairs or task vectors to a candidate checkpoint.

Invariant: it starts from the parent's weights, whatever the shared weights hold, and ends with a candidate on
disk or with the parent's weights restored and the reason. Repeated after a crash, it ends with the same
candidate.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, cast

import anyio
from pydantic import ConfigDict, Field

from agents.model.client import ModelClient
from agents.model.steering.directions import digest, to_directions
from agents.trainer.client import OnStep, TrainerClient
from agents.trainer.messages import Example, Objective, Settings, StepReport, TrainRequest
from agents.trainer.wire import load
from corpus.aliases import Progress
from corpus.errors import GateRefused, StepRefused, TrainerFault, UpdateCancelled, UsageError, WriteFailed
from store import queries
from store.ledger.db import Ledger, now
from store.ledger.records import Checkpoint, Pair, Step, Update
from store.nights import history
from store.queue.outcome import Change, Outcome
from store.queue.work import Work

PINNED = ("reference_id", "chosen_logprob", "rejected_logprob")
"""Columns of a pair: its reference checkpoint, and the log-probabilities under its weights."""
FALL = 0.1
"""Nats per token that the chosen answers may lose over an update without an alarm."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(Settings):
    """How an update trains; everything of Apollo's, and the objective."""

    __pydantic_config__ = ConfigDict(extra="forbid")

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
    """Return the part of the settings that goes over the socket."""
    own = {"enabled", "objective", "replay"}
    return Settings(**{name: value for name, value in asdict(settings).items() if name not in own})


@dataclass(frozen=True, kw_only=True)
class TrainHandler:
    """Handles work of the kinds `train` and `merge`: a night's planned update."""

    ledger: Ledger
    model: ModelClient
    trainer: TrainerClient
    behaviours: tuple[str, ...]
    """Names of all behaviours: each is measured after an update."""
    readout: Path
    """Directory of the home's concept vectors."""

    async def handle(self, item: Work, report: Progress) -> Outcome:
        """Train the update and write its candidate."""
        update = await self._planned(item)
        pairs = await self.ledger.read(queries.pairs_of, update.id)
        await self.trainer.rollback(update.parent_id, settled=False)
        examples, pins = await self._examples(pairs, update.parent_id)
        try:
            request = self._request(update, examples)
            reports = await self._train(request, report)
            candidate = await self._candidate(update, len(reports), **_prevented(request))
        except UpdateCancelled as cancelled:
            return _cancelled(update, str(cancelled), pins)
        except (StepRefused, GateRefused, UsageError, WriteFailed) as refused:
            return _refused(update, str(refused), pins)
        steps = [Step(update_id=update.id, step=r.step, metrics=dict(r.metrics)) for r in reports]
        return replace(
            candidate,
            records=(*candidate.records, *steps),
            changes=(*candidate.changes, *pins),
            facts={**candidate.facts, "steps": len(reports), **alarms(reports)},
        )

    async def merge(self, item: Work, report: Progress) -> Outcome:
        """Add the update's task vectors to its parent, and write the candidate."""
        update = await self._planned(item)
        settings = update.settings
        parts = [(part["start"], part["end"], part["weight"]) for part in settings["parts"]]
        await self.trainer.rollback(update.parent_id, settled=False)
        try:
            extent = await self.trainer.merge(
                update.parent_id, parts, method=settings["method"], density=settings["density"] or 1.0
            )
            candidate = await self._candidate(update, 0)
        except (GateRefused, WriteFailed) as refused:
            return _refused(update, str(refused), [])
        return replace(candidate, facts={**candidate.facts, **asdict(extent)})

    async def dry_run(self, update: Update, pairs: Sequence[Pair], on_step: OnStep) -> None:
        """Compute every step that these pairs would make, and make none; `on_step` gets each.

        The shared weights must be those of the update's parent.
        """
        examples, _ = await self._examples(pairs, update.parent_id)
        await self.trainer.train(replace(self._request(update, examples), dry_run=True), on_step)

    async def _planned(self, item: Work) -> Update:
        """Return the update that the night has planned."""
        update = await self.ledger.read(queries.update_of, item.night_id)
        if update is None:
            raise TrainerFault(f"night {item.night_id} has no planned {item.kind}")
        return update

    async def _candidate(self, update: Update, steps: int, **more: str) -> Outcome:
        """Have the shared weights written as the update's candidate; `more` goes into its manifest."""
        night = await self.ledger.read(queries.night, update.night_id)
        fields = {"cursor": night.cursor, "seed": update.seed, "settings": update.settings}
        fields |= {"objective": update.objective, **more}
        written = await self.trainer.checkpoint(update.parent_id, fields)
        candidate = Checkpoint(
            id=written.id,
            parent_id=update.parent_id,
            number=len(await self.ledger.read(queries.checkpoints)),
            weights_sha256=written.weights_sha256,
            update_id=update.id,
            state="candidate",
            at=now(),
        )
        trained = {"state": "trained", "checkpoint_id": written.id, "steps": steps}
        return Outcome(
            decision="trained",
            names=self.behaviours,
            records=(candidate,),
            changes=(Change(table="updates", where={"id": update.id}, values=trained),),
            facts={"checkpoint": written.id},
        )

    def _request(self, update: Update, examples: list[Example]) -> TrainRequest:
        """Return the update as a request; raises UsageError if it is steered by an unknown concept."""
        settings = load(Settings, update.settings)
        return TrainRequest(
            objective=cast(Objective, update.objective),
            settings=settings,
            seed=update.seed,
            parent=update.parent_id,
            examples=examples,
            prevent=to_directions(settings.prevent, self.readout),
        )

    async def _train(self, request: TrainRequest, report: Progress) -> tuple[StepReport, ...]:
        """Run the update, and report each step as it is made."""
        send, receive = anyio.create_memory_object_stream[StepReport](10_000)
        fault = None
        async with anyio.create_task_group() as tasks, send:

            async def forward() -> None:
                async with receive:
                    async for step in receive:
                        await report(step.step, step.steps)

            tasks.start_soon(forward, name="report steps")
            try:
                result = await self.trainer.train(request, send.send_nowait)
            except (
                TrainerFault
            ) as refused:  # raised here, it would leave the task group in an exception group
                fault = refused
            send.close()
        if fault is not None:
            raise fault
        return result.reports

    async def _examples(self, pairs: Sequence[Pair], parent_id: str) -> tuple[list[Example], list[Change]]:
        """Return the pairs as token ids with references under the parent, and changes that pin these.

        All references are computed together, also those that are pinned to this parent already: the last bits
        depend on the other rows of a pass, and an update that is repeated after a rollback must make the same
        checkpoint.
        """
        sides = await self._sides(pairs)
        # Both sides in a row: the trainer reads a context once for all answers that it scores together.
        items = [(context, answer) for context, *answers in sides for answer in answers]
        totals = [scored.total for scored in await self.trainer.logprobs(items)]
        examples, pins = [], []
        for pair, (context, chosen, rejected), *logprobs in zip(
            pairs, sides, totals[::2], totals[1::2], strict=True
        ):
            examples.append(
                Example(
                    context=context,
                    chosen=chosen,
                    rejected=rejected,
                    weight=pair.trust,
                    reference_chosen=logprobs[0],
                    reference_rejected=logprobs[1],
                )
            )
            pinned = dict(zip(PINNED, (parent_id, *logprobs), strict=True))
            pins.append(Change(table="pairs", where={"id": pair.id}, values=pinned))
        return examples, pins

    async def _sides(self, pairs: Sequence[Pair]) -> list[tuple[list[int], list[int], list[int]]]:
        """Return the token ids of each pair's context, chosen and rejected answer."""
        contexts = await self.model.tokenize([pair.messages for pair in pairs], add_generation_prompt=True)
        sides = [contexts]
        for answers in ([pair.chosen for pair in pairs], [pair.rejected for pair in pairs]):
            answered = [
                [*pair.messages, {"role": "assistant", "content": answer}]
                for pair, answer in zip(pairs, answers, strict=True)
            ]
            whole = await self.model.tokenize(answered, add_generation_prompt=False)
            sides.append([_continuation(c, w) for c, w in zip(contexts, whole, strict=True)])
        return list(zip(*sides, strict=True))


def _prevented(request: TrainRequest) -> dict[str, str]:
    """Return a digest of the directions that the update is steered by; the settings hold the strengths."""
    return {"prevented": digest(request.prevent)} if request.prevent else {}


def _continuation(context: list[int], whole: list[int]) -> list[int]:
    """Return the tokens that the chat template adds to the context for an answer."""
    if whole[: len(context)] != context:
        raise TrainerFault(
            "the chat template changes earlier turns when an answer follows: its pairs cannot be trained"
        )
    return whole[len(context) :]


def _refused(update: Update, reason: str, pins: list[Change]) -> Outcome:
    """Return the outcome of a refused update; the computed references stay, as a record of the parent."""
    values = {"state": "refused", "reasons": [reason]}
    return Outcome(
        decision="refused",
        changes=(Change(table="updates", where={"id": update.id}, values=values), *pins),
        facts={"reason": reason},
    )


def _cancelled(update: Update, reason: str, pins: list[Change]) -> Outcome:
    """Return the outcome of a cancelled update, which quarantines its pairs as an undone update does."""
    quarantine = partial(history.set_update, update_id=update.id, state="refused", reasons=[reason])
    return Outcome(decision="refused", changes=tuple(pins), then=quarantine, facts={"reason": reason})


def alarms(reports: Sequence[StepReport]) -> dict[str, str]:
    """Return an alarm if the chosen answers became less likely, DPO's known failure, or nothing.

    Compares the mean of the first half of an update's steps with that of the second; needs 4 steps.
    """
    logprobs = [r.metrics["chosen_logprob"] for r in reports if "chosen_logprob" in r.metrics]
    if len(logprobs) < 4:
        return {}
    half = len(logprobs) // 2
    first, last = sum(logprobs[:half]) / half, sum(logprobs[-half:]) / half
    if last >= first - FALL:
        return {}
    return {"alarm": f"chosen log-probability fell from {first:.2f} to {last:.2f} nats a token"}
