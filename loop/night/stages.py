"""The stages of a night that are decisions rather than an agent's work: plan, propose, measure, read, rule, settle.

Invariant: a stage reads rows, asks an agent, and returns an Outcome; done again after a crash it returns the
same. Weights are looked at only after the mapping has been made to hold exactly the checkpoint in question.
"""

from dataclasses import asdict, dataclass
from functools import partial

from sqlalchemy import Connection

from agents.dreamer.temperature import T_MAX
from agents.evaluator.measure import Evaluator
from agents.pairs.propose import Proposal, count_teaching, propose
from agents.readout.monitor import Monitor
from agents.trainer.client import TrainerClient
from agents.trainer.handler import trainer_settings
from corpus.aliases import Progress
from corpus.behaviour import Behaviour, sides
from corpus.errors import GateRefused, NightschoolError
from loop.config import Settings
from loop.engine.schedule import OBSERVING
from loop.night import gc
from loop.night import readings as readouts
from loop.night.memory_estimate import checkpoint_bytes
from loop.night.verdict import Decision, Limits, Paired, rule
from store import graph, queries
from store.checkpoints.store import CheckpointStore
from store.ledger.db import Ledger, now
from store.ledger.records import Measurement, Rate, Update, UpdatePair, Verdict, seed_of
from store.nights import history, learned
from store.queue.outcome import Change, Outcome
from store.queue.work import Work


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The stages, each a handler of work of its kind."""

    ledger: Ledger
    settings: Settings
    behaviours: dict[str, Behaviour]
    evaluator: Evaluator
    monitor: Monitor
    trainer: TrainerClient
    store: CheckpointStore
    definitions: dict[str, str]
    """What each behaviour's pass rate rests on, as a digest."""

    async def plan(self, item: Work, report: Progress) -> Outcome:
        """Choose the behaviours of the night: those with lessons that no night has taken up."""
        night = await self.ledger.read(queries.night, item.night_id)
        lessons = await self.ledger.read(graph.new_lessons, night["cursor"])
        waiting = self.teaching(await self.ledger.read(queries.pairs, "new"))
        targets = sorted({self.habit(str(signal.behaviour)) for signal, _ in lessons})
        dreamt = [*targets, *self._guards(targets, await self.ledger.read(learned.behaviours))]
        names = [side.name for name in dreamt for side in sides(name, self.behaviours)]
        rates = tuple(Rate(behaviour=name, failed=0.0, passed=0.0, temperature=T_MAX) for name in names)
        taken = Change(
            table="signals",
            where={"id": [signal.id for signal, _ in lessons]},
            values={"night_id": item.night_id},
        )
        plan = Change(table="nights", where={"id": item.night_id}, values={"targets": targets})
        if not targets and waiting < self.settings.pairs.minimum:
            reason = await self.ledger.read(_why_nothing, waiting, self.settings.pairs.minimum)
            reasons = Change(table="nights", where={"id": item.night_id}, values={"reasons": [reason]})
            return Outcome(decision="nothing", changes=(plan, reasons), facts={"reason": reason})
        return Outcome(
            decision="dream",
            names=tuple(dreamt),
            records=rates,
            changes=(taken, plan),
            facts={"targets": targets, "lessons": len(lessons)},
        )

    def teaching(self, new: list[queries.Row]) -> int:
        """How many new pairs teach something that an update may be made of."""
        return count_teaching(new, per_source=self.settings.pairs.per_source, counters=self._counters())

    def _counters(self) -> set[str]:
        return {behaviour.name for behaviour in self.behaviours.values() if behaviour.counter_of}

    def _guards(self, targets: list[str], learnt: set[str]) -> list[str]:
        """Counter-behaviours that are dreamt too, so that none is lost.

        Those of the targets are dreamt anyway, and of what was learnt before replay has both sides: a guard
        alone would push it back.
        """
        if not targets:  # pairs that waited: their guards wait with them
            return []
        kept = {*targets, *learnt}
        return sorted(b.name for b in self.behaviours.values() if b.counter_of and b.counter_of not in kept)

    def habit(self, name: str) -> str:
        """The behaviour that this one, or its counter-behaviour, belongs to."""
        return self.behaviours[name].counter_of or name

    async def propose(self, item: Work, report: Progress) -> Outcome:
        """Choose the pairs of the night's update."""
        night = await self.ledger.read(queries.night, item.night_id)
        training = self.settings.training
        new = await self.ledger.read(queries.pairs, "new")
        used = await self.ledger.read(queries.pairs, "used")
        seed = seed_of(night["seed"], "replay", item.night_id)
        proposal = self.proposal(new, used, minimum=self.settings.pairs.minimum, seed=seed)
        active = await self.ledger.read(queries.active)
        reason = proposal.reason or self.refusal(active["id"])
        if reason:
            reasons = Change(table="nights", where={"id": item.night_id}, values={"reasons": [reason]})
            return Outcome(decision="nothing", changes=(reasons,), facts={"reason": reason})
        update = Update(
            id=f"u{night['number']}",
            night_id=item.night_id,
            objective=training.objective,
            settings=asdict(trainer_settings(training)),
            seed=seed_of(night["seed"], "train", item.night_id),
            parent_id=active["id"],
            at=now(),
        )
        members = [UpdatePair(update_id=update.id, pair_id=pair["id"], replay=False) for pair in proposal.new]
        members += [
            UpdatePair(update_id=update.id, pair_id=pair["id"], replay=True) for pair in proposal.replay
        ]
        retried = {
            pair["behaviour"] for pair in proposal.new if not self.behaviours[pair["behaviour"]].counter_of
        }
        targets = sorted(retried | set(night["targets"]))
        plan = Change(table="nights", where={"id": item.night_id}, values={"targets": targets})
        taken = {pair["id"] for pair in proposal.new}
        over = [pair["id"] for pair in new if pair["id"] not in taken]
        # Left new, a flood from one source would be learnt all the same, one cap after the other.
        left = Change(table="pairs", where={"id": over}, values={"state": "over_cap"})
        return Outcome(
            decision="update",
            names=tuple(self.behaviours),
            records=(update, *members),
            changes=(plan, left),
            facts={"pairs": len(proposal.new), "replay": len(proposal.replay), "over_cap": len(over)},
        )

    def proposal(
        self, new: list[queries.Row], used: list[queries.Row], *, minimum: int, seed: int
    ) -> Proposal:
        """Which of these new and used pairs an update would be made of."""
        return propose(
            new,
            used,
            minimum=minimum,
            per_source=self.settings.pairs.per_source,
            counters=self._counters(),
            replay_share=self.settings.training.replay,
            seed=seed,
        )

    def refusal(self, active_id: str) -> str:
        """Why there may be no update now, although there are pairs; "" when there may be one."""
        if not self.settings.trains:
            return OBSERVING
        try:
            settings = trainer_settings(self.settings.training)
            self.store.has_room(checkpoint_bytes(self.store.kinds(active_id), settings))
        except GateRefused as refused:
            return str(refused)
        return ""

    async def measure(self, item: Work, report: Progress) -> Outcome:
        """Measure one behaviour, before or after: the subject is when/round/name."""
        when, round_, name = item.subject.split("/")
        night = await self.ledger.read(queries.night, item.night_id)
        checkpoint = await self.hold(item.night_id, when)
        outcomes = await self.measured(name, night["seed"], int(round_), checkpoint["weights_sha256"], report)
        row = Measurement(
            weights_sha256=checkpoint["weights_sha256"],
            behaviour=name,
            definition=self.definitions[name],
            seed=night["seed"],
            round=int(round_),
            outcomes=outcomes,
        )
        return Outcome(records=(row,), facts={"passed": outcomes.count("1"), "trials": len(outcomes)})

    async def measured(self, name: str, seed: int, round_: int, weights_sha256: str, report: Progress) -> str:
        """The outcomes of a round: from the ledger if it was measured, else of the weights being served."""
        known = await self.ledger.read(
            queries.measurement, weights_sha256, name, self.definitions[name], seed, round_
        )
        if known is not None:
            return known
        count = self.settings.verdict.scenarios
        behaviour = self.behaviours[name]
        return await self.evaluator.measure(behaviour, count=count, seed=seed, round_=round_, report=report)

    async def read(self, item: Work, report: Progress) -> Outcome:
        """Take the readings, before or after."""
        taken = await readouts.take(self, item.night_id, item.subject, report)
        told = {reading.name: round(reading.mean, 4) for reading in taken.readings} or {"known": True}
        keep = partial(readouts.keep, taken=taken, night_id=item.night_id)
        return Outcome(records=taken.readings, then=keep, facts=told)

    async def checkpoint(self, night_id: str, when: str) -> queries.Row:
        """The update's parent ("before") or its candidate ("after")."""
        update = await self._update(night_id)
        checkpoint_id = update["parent_id"] if when == "before" else update["checkpoint_id"]
        return await self.ledger.read(queries.checkpoint, checkpoint_id)

    async def hold(self, night_id: str, when: str) -> queries.Row:
        """Make the mapping hold that checkpoint."""
        checkpoint = await self.checkpoint(night_id, when)
        await self.trainer.rollback(checkpoint["id"], settled=False)
        return checkpoint

    async def _update(self, night_id: str) -> queries.Row:
        update = await self.ledger.read(queries.update_of, night_id)
        if update is None:
            raise NightschoolError(
                f"night {night_id} has no update to look at; see `nightschool ledger events`"
            )
        return update

    async def rule(self, item: Work, report: Progress) -> Outcome:
        """The verdict: keep moves the pointer, roll back leaves it, inconclusive asks for another round."""
        update = await self._update(item.night_id)
        ruling = await self.ledger.read(self._ruling, item, update)
        facts = {"update": update["id"], "reasons": ruling.reasons}
        if ruling.decision == "inconclusive":
            return Outcome(decision="inconclusive", names=tuple(self.behaviours), facts=facts)
        verdict = Verdict(
            update_id=update["id"],
            decision=ruling.decision,
            reasons=ruling.reasons,
            tests=ruling.tests,
            at=now(),
        )
        carry_out = partial(
            history.carry_out, update=update, decision=ruling.decision, reasons=ruling.reasons
        )
        return Outcome(decision=ruling.decision, records=(verdict,), then=carry_out, facts=facts)

    def _ruling(self, connection: Connection, item: Work, update: queries.Row) -> Decision:
        night = queries.night(connection, item.night_id)
        parent = queries.checkpoint(connection, update["parent_id"])["weights_sha256"]
        candidate = queries.checkpoint(connection, update["checkpoint_id"])["weights_sha256"]
        before = queries.measurements(connection, parent, self.definitions, night["seed"])
        after = queries.measurements(connection, candidate, self.definitions, night["seed"])
        limits, learnt = self.settings.verdict, learned.behaviours(connection)
        readings = readouts.pair(connection, parent, candidate)
        return rule(
            [
                _paired(behaviour, before, after, night["targets"], learned.unlearnt(update), learnt)
                for behaviour in self.behaviours.values()
            ],
            perplexity=(readings[0]["perplexity"]["mean"], readings[1]["perplexity"]["mean"]),
            drift=readouts.drift(*readings),
            joint=readouts.joint(connection, parent, candidate),
            limits=Limits(
                margin=limits.margin,
                perplexity=limits.perplexity,
                drift=limits.drift,
                joint_drift=limits.joint_drift,
            ),
            last_round=int(item.subject) + 1 >= limits.max_rounds,
        )

    async def settle(self, item: Work, report: Progress) -> Outcome:
        """Make the mapping hold the active checkpoint, clean, and close the night."""
        active = await self.ledger.read(queries.active)
        await self.trainer.rollback(active["id"], settled=True)
        await gc.give_up_states(self.store, self.ledger, self.settings.checkpoints.optimizer_states)
        close = partial(history.close_night, night_id=item.night_id)
        return Outcome(decision="settled", then=close, facts={"checkpoint": active["id"]})


def _paired(
    behaviour: Behaviour,
    before: dict[str, str],
    after: dict[str, str],
    targets: list[str],
    unlearnt: list[str],
    learnt: set[str],
) -> Paired:
    name = behaviour.name
    if name not in before or name not in after:
        raise NightschoolError(f"{name} was not measured before and after: no verdict without it")
    shared = min(len(before[name]), len(after[name]))  # a killed round may have one side more
    return Paired(
        behaviour=name,
        before=before[name][:shared],
        after=after[name][:shared],
        meant=name in targets,
        falls=name in unlearnt,
        gated=behaviour.counter_of is not None or name in targets or name in learnt,
    )


def _why_nothing(connection: Connection, waiting: int, minimum: int) -> str:
    """Why a night has nothing to learn."""
    undone = len(queries.pairs(connection, "undone"))
    if undone:
        return (
            f"no new lessons; {undone} pairs of undone updates are set aside: "
            "`nightschool night --retry` takes them up again"
        )
    if waiting:
        return f"no new lessons; {waiting} pairs wait, an update needs {minimum}"
    if not queries.cursor(connection):
        return "no conversations yet: `nightschool ingest PATH` or drop logs into the home's inbox/"
    return "no new lessons since the last night"
