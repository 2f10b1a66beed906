"""Work of kind `measure`: pass rates on the held-out scenarios, before and after an update.

Invariant: a round that the ledger has is never measured again; one that it has not is measured while the
shared weights hold exactly the checkpoint in question.
"""

from dataclasses import dataclass

from agents.evaluator.abilities import Abilities
from corpus.abilities.prompts import NAME
from corpus.aliases import Progress
from loop.night.context import NightContext
from store import queries
from store.ledger.records import Measurement
from store.queue.outcome import Outcome
from store.queue.work import Work


async def measure_round(
    context: NightContext, name: str, *, seed: int, round_: int, weights_sha256: str, report: Progress
) -> Measurement:
    """Return one round of a behaviour or the abilities, from the ledger or measured on the served weights."""
    definition = context.definitions[name]
    outcomes = await context.ledger.read(queries.measurement, weights_sha256, name, definition, seed, round_)
    if outcomes is None and name == NAME:
        abilities = Abilities(model=context.model)
        outcomes = await abilities.measure(context.abilities, seed=seed, round_=round_, report=report)
    elif outcomes is None:
        count = context.settings.verdict.scenarios
        outcomes = await context.evaluator.measure(
            context.behaviours[name], count=count, seed=seed, round_=round_, report=report
        )
    return Measurement(
        weights_sha256=weights_sha256,
        behaviour=name,
        definition=definition,
        seed=seed,
        round=round_,
        outcomes=outcomes,
    )


@dataclass(frozen=True)
class Measure:
    """Measure a behaviour, or the abilities, before or after the update; the subject is WHEN/ROUND/NAME."""

    context: NightContext

    async def handle(self, item: Work, report: Progress) -> Outcome:
        """See `Measure`."""
        when, round_, name = item.subject.split("/")
        night = await self.context.ledger.read(queries.night, item.night_id)
        checkpoint = await self.context.hold(item.night_id, when)
        row = await measure_round(
            self.context,
            name,
            seed=night.seed,
            round_=int(round_),
            weights_sha256=checkpoint.weights_sha256,
            report=report,
        )
        return Outcome(records=(row,), facts={"passed": row.outcomes.count("1"), "trials": len(row.outcomes)})
