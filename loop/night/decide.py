"""Work of kind `rule`: the verdict on the night's update, from what the ledger has of both sides.

Invariant: a behaviour that was not measured on both sides, or readings taken with different vectors, make no
verdict. How the figures are judged is `loop.night.verdict`'s; this file gathers them.
"""

from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection

from corpus.abilities.prompts import NAME
from corpus.aliases import Progress
from corpus.behaviour import Behaviour
from corpus.errors import NightschoolError
from loop.night import readings
from loop.night.context import NightContext
from loop.night.verdict import Decision, Limits, Paired, decide
from store import queries
from store.ledger.db import now
from store.ledger.records import Update, Verdict
from store.nights import history
from store.queue.outcome import Outcome
from store.queue.work import Work


@dataclass(frozen=True)
class Decide:
    """Decide on the update; the subject is the number of the round.

    "keep" moves the pointer, "roll back" leaves it, "inconclusive" asks for another round.
    """

    context: NightContext

    async def handle(self, item: Work, report: Progress) -> Outcome:
        """See `Decide`."""
        update = await self.context.update(item.night_id)
        made = await self.context.ledger.read(self._decision, item, update)
        facts = {"update": update.id, "reasons": made.reasons}
        if made.decision == "inconclusive":
            return Outcome(decision="inconclusive", names=self.context.measured, facts=facts)
        verdict = Verdict(
            update_id=update.id,
            decision=made.decision,
            reasons=made.reasons,
            tests=made.tests,
            at=now(),
        )
        carry_out = partial(history.carry_out, update=update, decision=made.decision, reasons=made.reasons)
        return Outcome(decision=made.decision, records=(verdict,), then=carry_out, facts=facts)

    def _decision(self, connection: Connection, item: Work, update: Update) -> Decision:
        night = queries.night(connection, item.night_id)
        parent = queries.checkpoint(connection, update.parent_id).weights_sha256
        candidate = queries.checkpoint(connection, update.checkpoint_id or "").weights_sha256
        definitions, limits = self.context.definitions, self.context.settings.verdict
        before = queries.measurements(connection, parent, definitions, night.seed)
        after = queries.measurements(connection, candidate, definitions, night.seed)
        learnt = queries.learnt_behaviours(connection)
        read = readings.pair(connection, parent, candidate)
        unlearnt = queries.unlearnt_by(update)
        paired = [
            _paired(behaviour, before, after, night.targets, unlearnt, learnt)
            for behaviour in self.context.behaviours.values()
        ]
        if self.context.abilities:
            first, second = _shared(NAME, before, after)
            margin = limits.abilities_margin
            paired.append(Paired(behaviour=NAME, before=first, after=second, meant=False, margin=margin))
        return decide(
            paired,
            perplexity=readings.perplexity(connection, parent, candidate),
            drift=readings.drift(*read),
            joint=readings.joint(connection, parent, candidate),
            limits=Limits(
                margin=limits.margin,
                perplexity=limits.perplexity,
                drift=limits.drift,
                joint_drift=limits.joint_drift,
            ),
            last_round=int(item.subject) + 1 >= limits.max_rounds,
        )


def _paired(
    behaviour: Behaviour,
    before: dict[str, str],
    after: dict[str, str],
    targets: list[str],
    unlearnt: list[str],
    learnt: set[str],
) -> Paired:
    name = behaviour.name
    first, second = _shared(name, before, after)
    return Paired(
        behaviour=name,
        before=first,
        after=second,
        meant=name in targets,
        falls=name in unlearnt,
        gated=behaviour.counter_of is not None or name in targets or name in learnt,
    )


def _shared(name: str, before: dict[str, str], after: dict[str, str]) -> tuple[str, str]:
    """Return the outcomes of the scenarios that were measured both before and after."""
    if name not in before or name not in after:
        raise NightschoolError(f"{name} was not measured before and after: no verdict without it")
    shared = min(len(before[name]), len(after[name]))  # a killed round may have one side more
    return before[name][:shared], after[name][:shared]
