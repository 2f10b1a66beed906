"""The handler of the work kinds `train` and `merge`: makes a planned update into a candidate checkpoint.

Invariant: the handler starts from the parent's weights, whatever the shared weights hold. It ends with a
candidate on disk, or with the parent's weights restored and a reason. If the work is repeated after a crash,
it ends with the same candidate.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, cast

import anyio
from pydantic import ConfigDict, Field

from agents.model.client import ModelClient
from agents.model.steering.directions import digest, to_directions
from agents.trainer.client import OnStep, TrainerClient
from agents.trainer.messages import Example, Objective, Settings, StepReport, TrainRequest, TrainResult
from agents.trainer.wire import load
from corpus.aliases import Json, Progress
from corpus.errors import GateRefused, StepRefused, TrainerFault, UpdateCancelled, UsageError, WriteFailed
from store import queries
from store.ledger.db import Ledger, now
from store.ledger.records import Checkpoint, Pair, Step, Update
from store.nights import history
from store.queue.outcome import Change, Outcome
from store.queue.work import Work

PINNED = ("reference_id", "chosen_logprob", "rejected_logprob")
"""Columns of a pair: its reference checkpoint, and both answers' log-probabilities under the weights of that
checkpoint."""
CHOSEN = "chosen"
"""Key in the settings of a trained update: what the trainer chose."""
FALL = 0.1
"""Nats per token by which the chosen answers' log-probability may fall in an update without an alarm."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(Settings):
    """The settings of an update: the objective, Apollo's settings, and how many earlier pairs it repeats."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    lr: Annotated[float, Field(gt=0, le=10)] | Literal["auto"] = "auto"
    """Peak learning rate. `auto`: 0.001 for the shipped model; for other models, found from the relative size
    of the update's first step, with warm-up."""
    batch_size: int = 0
    """Pairs in one step. 0: 16 for the shipped model, 8 for other models."""
    epochs: int = 0
    """Passes over the pairs. 0: 1 for the shipped model; for other models, the passes that make 16 steps, at
    most 4."""
    compute: Literal["auto", "weights", "bfloat16"] = "auto"
    """Type in which the trainer multiplies matrices: `weights` is that of the weights; `bfloat16` is quicker
    on some processors, and its results differ in their last bits. `auto`: bfloat16 on processors with AMX,
    but not for the shipped model. Weights, gradients and the optimizer's state keep their types."""
    beta: Annotated[float, Field(ge=0, le=1000)] = 0.25
    """Lambda of ORPO; beta of DPO, DPOP, SimPO and KTO."""
    enabled: bool | None = None
    """Whether nights train. If false, no night begins by itself, and a night that is begun by hand does
    everything except the update. Unset: true, or false if `model.url` is set."""
    objective: Objective = "orpo"
    """Training objective: orpo, dpo, dpop, simpo, kto or sft."""
    replay: Annotated[float, Field(ge=0, le=0.9)] = 0.25
    """Share of an update's pairs that are kept pairs of earlier updates."""

    def _chosen_if_zero(self) -> tuple[str, ...]:
        return "batch_size", "epochs"


SHIPPED = {"lr": 1e-3, "batch_size": 16, "epochs": 1, "compute": "weights"}
"""The settings for the shipped model, as its recipe tried them."""
BATCH_SIZE, STEPS, MOST_EPOCHS = 8, 16, 4
"""For other models: pairs in a step, steps that an update should have, and the most passes to get there. A
fresh optimizer needs some steps to know the gradients' size; more passes learn the pairs by heart."""


def trainer_settings(settings: TrainingSettings, *, shipped: bool, pairs: int) -> Settings:
    """Return the settings that the trainer needs, without those that only the service uses.

    Args:
        settings: The configured settings.
        shipped: Whether the model is the shipped one, for which the values of all open settings are known.
        pairs: Number of pairs of the update.
    """
    own = {"enabled", "objective", "replay"}
    values = {name: value for name, value in asdict(settings).items() if name not in own}
    if shipped:
        values |= {name: value for name, value in SHIPPED.items() if values[name] in ("auto", 0)}
    values["batch_size"] = values["batch_size"] or BATCH_SIZE
    steps = math.ceil(max(pairs, 1) / values["batch_size"])
    values["epochs"] = values["epochs"] or min(MOST_EPOCHS, math.ceil(STEPS / steps))
    return Settings(**values)


@dataclass(frozen=True, kw_only=True)
class TrainHandler:
    """Handles work of the kinds `train` and `merge`: runs a night's planned update."""

    ledger: Ledger
    model: ModelClient
    trainer: TrainerClient
    behaviours: Callable[[], tuple[str, ...]]
    """Returns the names of all behaviours. Each behaviour is measured after an update."""
    readout: Path
    """Directory of the home's concept vectors."""

    async def handle(self, item: Work, report: Progress) -> Outcome:
        """Train the planned update and write its candidate, and return the outcome.

        A refused or cancelled update has an outcome too, with the reason.
        """
        update = await self._planned(item)
        pairs = await self.ledger.read(queries.pairs_of, update.id)
        await self.trainer.rollback(update.parent_id, settled=False)
        examples, pins = await self._examples(pairs, update)
        try:
            request = self._request(update, examples)
            result = await self._train(request, report)
            chosen = chosen_settings(result)
            candidate = await self._candidate(
                update, result.steps, settings=update.settings | chosen, **_prevented(request)
            )
        except UpdateCancelled as cancelled:
            return _cancelled(update, str(cancelled), pins)
        except (StepRefused, GateRefused, UsageError, WriteFailed) as refused:
            return _refused(update, str(refused), pins)
        steps = [Step(update_id=update.id, step=r.step, metrics=dict(r.metrics)) for r in result.reports]
        return replace(
            candidate,
            records=(*candidate.records, *steps),
            changes=(*candidate.changes, *pins),
            facts={**candidate.facts, "steps": result.steps, **chosen[CHOSEN], **alarms(result.reports)},
        )

    async def merge(self, item: Work, report: Progress) -> Outcome:
        """Add the update's task vectors to its parent and write the candidate; return the outcome."""
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
        """Compute every step of an update with these pairs, without changing any weight.

        The shared weights must be those of the update's parent. `on_step` is called with each step's report.
        """
        examples, _ = await self._examples(pairs, update)
        await self.trainer.train(replace(self._request(update, examples), dry_run=True), on_step)

    async def _planned(self, item: Work) -> Update:
        """Return the update that the work's night has planned; raise TrainerFault if there is none."""
        update = await self.ledger.read(queries.update_of, item.night_id)
        if update is None:
            raise TrainerFault(f"night {item.night_id} has no planned {item.kind}")
        return update

    async def _candidate(
        self, update: Update, steps: int, settings: Json | None = None, **more: str
    ) -> Outcome:
        """Write the shared weights as the update's candidate; return the outcome.

        Args:
            update: The update.
            steps: Number of its steps.
            settings: Its settings with what the trainer chose; None for a merge, which chooses nothing.
            more: Further fields of the manifest.
        """
        night = await self.ledger.read(queries.night, update.night_id)
        settings = settings or update.settings
        fields = {"cursor": night.cursor, "seed": update.seed, "settings": settings}
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
        trained = {"state": "trained", "checkpoint_id": written.id, "steps": steps, "settings": settings}
        return Outcome(
            decision="trained",
            names=self.behaviours(),
            records=(candidate,),
            changes=(Change(table="updates", where={"id": update.id}, values=trained),),
            facts={"checkpoint": written.id},
        )

    def _request(self, update: Update, examples: list[Example]) -> TrainRequest:
        """Return the request for this update; raise UsageError if `prevent` names an unknown concept."""
        settings = load(Settings, {k: v for k, v in update.settings.items() if k != CHOSEN})
        return TrainRequest(
            objective=cast(Objective, update.objective),
            settings=settings,
            seed=update.seed,
            parent=update.parent_id,
            examples=examples,
            prevent=to_directions(settings.prevent, self.readout),
        )

    async def _train(self, request: TrainRequest, report: Progress) -> TrainResult:
        """Run the update, report each completed step, and return the result."""
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
            ) as refused:  # an error raised here would leave the task group in an exception group
                fault = refused
            send.close()
        if fault is not None:
            raise fault
        return result

    async def _examples(self, pairs: Sequence[Pair], update: Update) -> tuple[list[Example], list[Change]]:
        """Return the pairs as examples, and the changes that pin their references in the ledger.

        An example holds token ids and its references: both answers' log-probabilities under the parent. All
        references are computed together, even if a pair already has references under this parent. The last
        bits of a log-probability depend on the other rows of its pass, and an update that is repeated after a
        rollback must make the same checkpoint.
        """
        sides = await self._sides(pairs)
        # A pair's two answers are adjacent: the trainer reads a context once for answers scored together.
        items = [(context, answer) for context, *answers in sides for answer in answers]
        exact = update.settings["compute"] == "weights"  # as the training will compute
        totals = [scored.total for scored in await self.trainer.logprobs(items, exact=exact)]
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
            pinned = dict(zip(PINNED, (update.parent_id, *logprobs), strict=True))
            pins.append(Change(table="pairs", where={"id": pair.id}, values=pinned))
        return examples, pins

    async def _sides(self, pairs: Sequence[Pair]) -> list[tuple[list[int], list[int], list[int]]]:
        """Return the token ids of each pair's context, chosen and rejected answer."""
        tools = [pair.tools for pair in pairs]
        contexts = await self.model.tokenize(
            [pair.messages for pair in pairs], tools=tools, add_generation_prompt=True
        )
        sides = [contexts]
        for answers in ([pair.chosen for pair in pairs], [pair.rejected for pair in pairs]):
            answered = [
                [*pair.messages, {"role": "assistant", "content": answer}]
                for pair, answer in zip(pairs, answers, strict=True)
            ]
            whole = await self.model.tokenize(answered, tools=tools, add_generation_prompt=False)
            sides.append([_continuation(c, w) for c, w in zip(contexts, whole, strict=True)])
        return list(zip(*sides, strict=True))


def chosen_settings(result: TrainResult) -> Json:
    """Return the values that were chosen for an update where its settings left them open.

    They are stored with the update's settings under the key `chosen`. `first_share` shows how the learning
    rate was found: it is the norm of a fresh optimizer's first step at this rate, as a share of the weights'
    norm. It is None if the rate was given.
    """
    return {CHOSEN: {"lr": result.lr, "first_share": result.first_share, "compute": result.compute}}


def _prevented(request: TrainRequest) -> dict[str, str]:
    """Return the manifest's field with the digest of the steering directions; empty without any."""
    return {"prevented": digest(request.prevent)} if request.prevent else {}


def _continuation(context: list[int], whole: list[int]) -> list[int]:
    """Return the answer's tokens: those of the whole conversation after the tokens of its context."""
    if whole[: len(context)] != context:
        raise TrainerFault(
            "the chat template changes earlier turns when an answer follows: its pairs cannot be trained"
        )
    return whole[len(context) :]


def _refused(update: Update, reason: str, pins: list[Change]) -> Outcome:
    """Return the outcome of a refused update. `pins`: the references, which are stored all the same."""
    values = {"state": "refused", "reasons": [reason]}
    return Outcome(
        decision="refused",
        changes=(Change(table="updates", where={"id": update.id}, values=values), *pins),
        facts={"reason": reason},
    )


def _cancelled(update: Update, reason: str, pins: list[Change]) -> Outcome:
    """Return the outcome of a cancelled update. It quarantines the update's pairs, as a rollback does."""
    quarantine = partial(history.set_update, update_id=update.id, state="refused", reasons=[reason])
    return Outcome(decision="refused", changes=tuple(pins), then=quarantine, facts={"reason": reason})


def alarms(reports: Sequence[StepReport]) -> dict[str, str]:
    """Return an alarm if the chosen answers became less likely, a known failure of DPO; else an empty dict.

    The mean log-probability over the first half of an update's steps is compared with the mean over the
    second half. An update of fewer than 4 steps gives no alarm.
    """
    logprobs = [r.metrics["chosen_logprob"] for r in reports if "chosen_logprob" in r.metrics]
    if len(logprobs) < 4:
        return {}
    half = len(logprobs) // 2
    first, last = sum(logprobs[:half]) / half, sum(logprobs[-half:]) / half
    if last >= first - FALL:
        return {}
    return {"alarm": f"chosen log-probability fell from {first:.2f} to {last:.2f} nats a token"}
