"""Work of kind `plan`: choose the behaviours of which a night dreams.

Invariant: the choice depends on the ledger and the settings only. A night that has nothing to learn records
the reason.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection

from agents.dreamer.temperature import T_MAX
from corpus.aliases import Progress
from corpus.behaviour import sides
from loop.night.context import NightContext
from loop.night.propose import count_teaching
from store import graph, queries
from store.ledger.records import Rate
from store.queue.outcome import Change, Outcome
from store.queue.work import Work


@dataclass(frozen=True)
class Plan:
    """The stage that chooses the behaviours of the night: those with lessons that no night has taken up."""

    context: NightContext

    async def handle(self, item: Work, report: Progress) -> Outcome:
        """Return an outcome with the chosen behaviours; its decision is "dream" or "nothing"."""
        context, ledger = self.context, self.context.ledger
        night = await ledger.read(queries.night, item.night_id)
        lessons = await ledger.read(graph.new_lessons, night.cursor)
        waiting = count_teaching(context, await ledger.read(queries.pairs, "new"))
        targets = sorted({context.base_behaviour(str(signal.behaviour)) for signal, _ in lessons})
        dreamt = [*targets, *self._guards(targets, await ledger.read(queries.learnt_behaviours))]
        names = [side.name for name in dreamt for side in sides(name, context.behaviours)]
        rates = tuple(Rate(behaviour=name, failed=0.0, passed=0.0, temperature=T_MAX) for name in names)
        taken = Change(
            table="signals",
            where={"id": [signal.id for signal, _ in lessons]},
            values={"night_id": item.night_id},
        )
        plan = Change(table="nights", where={"id": item.night_id}, values={"targets": targets})
        if not targets and waiting < context.settings.pairs.minimum:
            reason = await ledger.read(_why_nothing, waiting, context.settings.pairs.minimum)
            reasons = Change(table="nights", where={"id": item.night_id}, values={"reasons": [reason]})
            return Outcome(decision="nothing", changes=(plan, reasons), facts={"reason": reason})
        return Outcome(
            decision="dream",
            names=tuple(dreamt),
            records=rates,
            changes=(taken, plan),
            facts={"targets": targets, "lessons": len(lessons)},
        )

    def _guards(self, targets: list[str], learnt: Iterable[str]) -> list[str]:
        """Return the other counter-behaviours to dream of, so that the update does not weaken them.

        Left out are the counter-behaviours of the targets, of which the night dreams anyway, and those of
        behaviours that were learnt before. Replay trains both sides of such a behaviour; more pairs for its
        counter-behaviour alone would weaken the behaviour.

        Args:
            targets: Names of the behaviours with new lessons.
            learnt: Names of the behaviours that kept updates have learnt.
        """
        if not targets:  # the night has only pairs of earlier nights, and dreams of nothing
            return []
        kept = {*targets, *learnt}
        behaviours = self.context.behaviours.values()
        return sorted(b.name for b in behaviours if b.counter_of and b.counter_of not in kept)


def _why_nothing(connection: Connection, waiting: int, minimum: int) -> str:
    """Return the reason why a night has nothing to learn, for the user.

    Args:
        connection: The ledger.
        waiting: Number of new pairs that earlier nights left.
        minimum: Number of pairs that an update needs.
    """
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
