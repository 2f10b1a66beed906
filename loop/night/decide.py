"""Work of kind `rule`: the verdict on the night's update.

This module gathers the measurements from the ledger; `loop.night.verdict` judges them.

Invariant: there is no verdict if a behaviour was not measured both before and after the update, or if the two
readings were taken with different vectors.
"""

from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection

from corpus.abilities.prompts import NAME
from corpus.aliases import Progress
from corpus.behaviour import Behaviour
from corpus.errors import NightschoolError
from loop.night import readings
from loop.night.budget import is_spent
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
    """The stage that decides on the update; the subject of its work is the number of the round, from 0.

    The decision "keep" makes the candidate the active checkpoint. "roll back" leaves the active checkpoint as
    it is. "inconclusive" queues another round of measuring.
    """

    context: NightContext

    async def handle(self, item: Work, report: Progress) -> Outcome:
        """Return the decision; committing the outcome carries it out."""
        update = await self.context.update(item.night_id)
        spent = await is_spent(self.context, item.night_id)
        made = await self.context.ledger.read(self._decision, item, update, spent)
        facts = {"update": update.id, "reasons": made.reasons}
        if made.decision == "inconclusive":
            return Outcome(decision="inconclusive", names=made.again or self.context.measured, facts=facts)
        verdict = Verdict(
            update_id=update.id,
            decision=made.decision,
            reasons=made.reasons,
            tests=made.tests,
            at=now(),
        )
        carry_out = partial(history.carry_out, update=update, decision=made.decision, reasons=made.reasons)
        return Outcome(decision=made.decision, records=(verdict,), then=carry_out, facts=facts)

    def _decision(self, connection: Connection, item: Work, update: Update, spent: bool) -> Decision:
        """Return the verdict on the update from the measurements in the ledger.

        Args:
            connection: The ledger.
            item: The work.
            update: The update.
            spent: Whether the night has no tokens for a further round.
        """
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
            last_round=spent or int(item.subject) + 1 >= limits.max_rounds,
        )


def _paired(
    behaviour: Behaviour,
    before: dict[str, str],
    after: dict[str, str],
    targets: list[str],
    unlearnt: list[str],
    learnt: set[str],
) -> Paired:
    """Return one behaviour's outcomes before and after the update, and its part in the verdict.

    Args:
        behaviour: The behaviour.
        before: Outcomes before the update, by behaviour.
        after: Outcomes after the update, by behaviour.
        targets: Names of the behaviours that the night means to improve.
        unlearnt: Names of the behaviours that the update means to unlearn.
        learnt: Names of the behaviours that kept updates have learnt.
    """
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
    """Return the outcomes before and after, for the scenarios that were measured both times."""
    if name not in before or name not in after:
        raise NightschoolError(f"{name} was not measured before and after: no verdict without it")
    shared = min(len(before[name]), len(after[name]))  # a killed round may have measured one side only
    return before[name][:shared], after[name][:shared]
