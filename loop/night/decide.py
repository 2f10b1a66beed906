"""Work of kind `rule`: the verdict on the night's update.

This module gathers the measurements from the ledger; `loop.verdict` judges them.

Invariant: there is no verdict if a behaviour was not measured both before and after the update, or if the two
readings were taken with different vectors.
"""

from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection

from corpus.aliases import Progress
from corpus.errors import NightschoolError
from loop.night import readings
from loop.night.budget import is_spent
from loop.night.claims import claims_of
from loop.night.context import NightContext
from loop.verdict.claims import Claim, Paired
from loop.verdict.decision import Decision, decide
from loop.verdict.limits import Limits
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
        read = readings.pair(connection, parent, candidate)
        return decide(
            [
                _paired(claim, before, after)
                for claim in claims_of(connection, self.context, item.night_id).values()
            ],
            perplexity=readings.perplexity(connection, parent, candidate),
            drift=readings.drift(*read),
            joint=readings.joint(connection, parent, candidate),
            limits=Limits(perplexity=limits.perplexity, drift=limits.drift, joint_drift=limits.joint_drift),
            last_round=spent or int(item.subject) + 1 >= limits.max_rounds,
        )


def _paired(claim: Claim, before: dict[str, str], after: dict[str, str]) -> Paired:
    """Return the outcomes of the scenarios that were measured both before and after the update.

    Args:
        claim: The claim of one behaviour.
        before: Outcomes before the update, by behaviour.
        after: Outcomes after the update, by behaviour.
    """
    name = claim.behaviour
    if name not in before or name not in after:
        raise NightschoolError(f"{name} was not measured before and after: no verdict without it")
    shared = min(len(before[name]), len(after[name]))  # one side may be known from another night
    return Paired(claim=claim, before=before[name][:shared], after=after[name][:shared])
