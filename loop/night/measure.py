"""Work of kind `measure`: pass rates on the held-out scenarios, before and after an update.

Invariant: a batch that is in the ledger is not measured again. Any other batch is measured while the shared
weights hold exactly the checkpoint to be measured. A batch has the same scenarios in every night, so the
measurement of one night serves another.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from agents.evaluator.abilities import Abilities
from agents.evaluator.scenarios import extent
from corpus.abilities.prompts import NAME
from corpus.aliases import Progress
from loop.night.claims import claims_of
from loop.night.context import NightContext
from loop.verdict.claims import batches, guards_among, scenarios_after
from store import queries
from store.ledger.records import Measurement
from store.queue.outcome import Outcome
from store.queue.work import Work

MOST_WORDS = 2000
"""Most words of one batch whose counts are kept: some 30 kB."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """The measurement of one behaviour, or of the abilities."""

    known: tuple[Measurement, ...]
    """The batches that were in the ledger."""
    new: tuple[Measurement, ...]
    """The batches that were not."""

    @property
    def outcomes(self) -> str:
        """All outcomes, in the order of their scenarios."""
        batches = sorted((*self.known, *self.new), key=lambda batch: batch.round)
        return "".join(batch.outcomes for batch in batches)


async def measure_scenarios(
    context: NightContext,
    name: str,
    *,
    scenarios: int | None = None,
    seed: int,
    weights_sha256: str,
    report: Progress,
) -> Taken:
    """Return the outcomes of the first scenarios; those not in the ledger are measured on the served weights.

    Args:
        context: The opened home.
        name: A behaviour, or `abilities`.
        scenarios: Number of scenarios; None for all.
        seed: The seed of the answers.
        weights_sha256: Digest of the weights, which must be served now.
        report: Function that receives the progress.
    """
    definition, count = context.definitions[name], _count(context, name)
    wanted = count if scenarios is None else min(count, scenarios)
    stored = await context.ledger.read(queries.batches, weights_sha256, name, definition, seed)
    row = Measurement(
        weights_sha256=weights_sha256, behaviour=name, definition=definition, seed=seed, round=0, outcomes=""
    )
    known, new = [], []
    # A batch is always measured whole, or the next night could not use it.
    for number, places in enumerate(batches(count)):
        if places.start >= wanted:
            break
        if number in stored:
            known.append(replace(row, round=number, outcomes=stored[number]))
            continue
        await report(places.start, wanted)
        words: Counter[str] = Counter()
        outcomes = await answers(context, name, places, seed=seed, words=words)
        common = None if name == NAME else dict(sorted(words.most_common(MOST_WORDS)))
        new.append(replace(row, round=number, outcomes=outcomes, words=common))
    await report(wanted, wanted)
    return Taken(known=tuple(known), new=tuple(new))


async def answers(
    context: NightContext,
    name: str,
    places: range,
    *,
    seed: int,
    steer: Mapping[str, float] | None = None,
    words: Counter[str] | None = None,
) -> str:
    """Return the outcomes of scenarios on the served weights, measured now.

    Args:
        context: The opened home.
        name: A behaviour, or `abilities`.
        places: Positions of the scenarios among all scenarios.
        seed: The seed of the answers.
        steer: Concepts to steer the answers by, each with its strength; None for no steering.
        words: A counter that gets, for each word, the number of a behaviour's answers that have it; None to
            count none.
    """
    if name == NAME:
        prompts = context.abilities[places.start : places.stop]
        abilities = Abilities(model=context.model)
        return await abilities.measure(prompts, first=places.start, seed=seed, report=_nothing)
    return await context.evaluator.measure(
        context.behaviours[name],
        scenarios=places,
        most=context.settings.verdict.scenarios,
        seed=seed,
        report=_nothing,
        steer=steer,
        words=words,
    )


def _count(context: NightContext, name: str) -> int:
    """Return the number of scenarios of a behaviour, or of prompts of the abilities."""
    if name == NAME:
        return len(context.abilities)
    return extent(context.behaviours[name], context.settings.verdict.scenarios).scenarios


async def _nothing(done: int, total: int) -> None:
    """Ignore the progress within a batch."""


@dataclass(frozen=True)
class Measure:
    """The stage that measures one behaviour, or the abilities, before or after the update.

    The subject of its work is WHEN/ROUND/NAME, such as "before/0/abilities".
    """

    context: NightContext

    async def handle(self, item: Work, report: Progress) -> Outcome:
        """Return an outcome that saves the measured batches in the ledger."""
        when, round_, name = item.subject.split("/")
        night = await self.context.ledger.read(queries.night, item.night_id)
        claims = await self.context.ledger.read(claims_of, self.context, item.night_id)
        checkpoint = await self.context.hold(item.night_id, when)
        taken = await measure_scenarios(
            self.context,
            name,
            scenarios=scenarios_after(
                claims[name],
                int(round_),
                guards=guards_among(claims.values()),
                rounds=self.context.settings.verdict.max_rounds,
            ),
            seed=night.seed,
            weights_sha256=checkpoint.weights_sha256,
            report=report,
        )
        shown = "".join(row.outcomes for row in taken.new or taken.known)
        return Outcome(records=taken.new, facts={"passed": shown.count("1"), "trials": len(shown)})
