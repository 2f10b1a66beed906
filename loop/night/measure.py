"""Work of kind `measure`: pass rates on the held-out scenarios, before and after an update.

Invariant: a round that is in the ledger is not measured again. Any other round is measured while the shared
weights hold exactly the checkpoint to be measured.
"""

from collections import Counter
from dataclasses import dataclass

from agents.evaluator.abilities import Abilities
from corpus.abilities.prompts import NAME
from corpus.aliases import Progress
from loop.night.context import NightContext
from store import queries
from store.ledger.records import Measurement
from store.queue.outcome import Outcome
from store.queue.work import Work

MOST_WORDS = 2000
"""Most words of one round whose counts are kept: some 30 kB."""


async def measure_round(
    context: NightContext, name: str, *, seed: int, round_: int, weights_sha256: str, report: Progress
) -> Measurement:
    """Return one round of measuring, from the ledger if it is there; else measure the served weights.

    Args:
        context: The opened home.
        name: A behaviour, or `abilities`.
        seed: The seed of the scenarios and answers.
        round_: Number of the round, from 0.
        weights_sha256: Digest of the weights, which must be served now.
        report: Function that receives the progress.
    """
    definition = context.definitions[name]
    words: Counter[str] | None = None
    outcomes = await context.ledger.read(queries.measurement, weights_sha256, name, definition, seed, round_)
    if outcomes is None and name == NAME:
        abilities = Abilities(model=context.model)
        outcomes = await abilities.measure(context.abilities, seed=seed, round_=round_, report=report)
    elif outcomes is None:
        count, words = context.settings.verdict.scenarios, Counter()
        outcomes = await context.evaluator.measure(
            context.behaviours[name], count=count, seed=seed, round_=round_, report=report, words=words
        )
    return Measurement(
        weights_sha256=weights_sha256,
        behaviour=name,
        definition=definition,
        seed=seed,
        round=round_,
        outcomes=outcomes,
        words=None if words is None else dict(sorted(words.most_common(MOST_WORDS))),
    )


@dataclass(frozen=True)
class Measure:
    """The stage that measures one behaviour, or the abilities, before or after the update.

    The subject of its work is WHEN/ROUND/NAME, such as "before/0/abilities".
    """

    context: NightContext

    async def handle(self, item: Work, report: Progress) -> Outcome:
        """Return an outcome that saves the measured round in the ledger."""
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
