"""The pair builder: judged attempts, and corrections in logs, become pairs of a chosen and a rejected answer.

Invariant: both answers of a pair were judged. The rejected one was given without an instruction, and the
messages of the pair contain no instruction. A dream makes at most one pair, so that an easy dream does not
count twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection

from agents.model.client import ModelClient
from agents.model.context import ContextSettings
from agents.pairs.attempts import Judge, PairSettings
from agents.pairs.logged import Lesson, PairsOfLogs
from corpus.aliases import Progress
from corpus.behaviour import Behaviour, sides
from store import graph, queries
from store.ledger.db import Ledger
from store.ledger.records import Attempt, Dream, Pair, identity
from store.queue.outcome import Outcome
from store.queue.work import Work


def pair_of_dream(dream: Dream, attempts: Sequence[Attempt]) -> Pair | None:
    """Return the pair that a dream's attempts make; None if no attempt failed or none passed.

    The rejected answer is the first attempt without the instruction that failed. The chosen answer is the
    first attempt that passed; attempts without the instruction come before those with it. A pair needs both.
    """
    own = [attempt for attempt in attempts if not attempt.instructed]
    rejected = next((attempt for attempt in own if not attempt.passed), None)
    passing = [a for a in own if a.passed] or [a for a in attempts if a.passed]
    if rejected is None or not passing:
        return None
    chosen = passing[0]
    return Pair(
        id="p" + identity(dream.id, chosen.id, rejected.id),
        behaviour=dream.behaviour,
        messages=dream.messages,
        tools=dream.tools,
        chosen=chosen.text,
        rejected=rejected.text,
        chosen_from=f"{'instructed' if chosen.instructed else 'attempt'}:{chosen.id}",
        rejected_from=f"attempt:{rejected.id}",
        dream_id=dream.id,
        signal_id=None,
        source=dream.source,
        trust=1.0,
        checkpoint_id=rejected.checkpoint_id,
        state="new",
        night_id=dream.night_id,
    )


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The records in the ledger from which the pairs of some behaviours are built."""

    dreams: list[Dream]
    attempts: dict[str, list[Attempt]]
    """The attempts at each dream, by the dream's id."""
    lessons: list[Lesson]
    checkpoint_id: str
    """Id of the active checkpoint."""


@dataclass(frozen=True, kw_only=True)
class PairBuilder:
    """The handler of work of kind `pair`. The subject of such work is a behaviour's name."""

    ledger: Ledger
    behaviours: dict[str, Behaviour]
    judge: Judge
    settings: PairSettings
    model: ModelClient
    context: ContextSettings = field(default_factory=ContextSettings)

    async def handle(self, item: Work, report: Progress) -> Outcome:
        """Return the outcome of the work: the night's pairs of a behaviour and its counter-behaviour."""
        names = [side.name for side in sides(item.subject, self.behaviours)]
        inputs = await self.ledger.read(self._inputs, item.night_id, names)
        dreamt = [pair_of_dream(dream, inputs.attempts[dream.id]) for dream in inputs.dreams]
        of_logs = PairsOfLogs(
            model=self.model, judge=self.judge, context=self.context, trust=self.settings.trust_in_logs
        )
        logged = await of_logs.of(inputs.lessons, self.behaviours, item.night_id, inputs.checkpoint_id)
        pairs = [*(pair for pair in dreamt if pair is not None), *logged.pairs]
        left_out = {"corrections_without_pair": dict(logged.left_out)} if logged.left_out else {}
        return Outcome(
            records=tuple(pairs), facts={"pairs": len(pairs), "dreams": len(inputs.dreams), **left_out}
        )

    def _inputs(self, connection: Connection, night_id: str, names: list[str]) -> Inputs:
        """Return the records from which the night's pairs of the behaviours with these names are built."""
        dreams = queries.dreams(connection, night_id, names)
        return Inputs(
            dreams=dreams,
            attempts=queries.attempts(connection, [dream.id for dream in dreams]),
            lessons=[
                (signal, episode)
                for signal, episode in graph.lessons_of(connection, night_id)
                if signal.behaviour in names
            ],
            checkpoint_id=queries.active(connection).id,
        )
