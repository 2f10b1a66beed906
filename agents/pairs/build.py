"""The pair builder: judged attempts, and corrections in logs, become pairs of a chosen and a rejected answer.

A dream of a counter-behaviour mostly has no failed answer of its own. Its rejected answer is the one that the
model gave when it was told the behaviour's rule: the over-generalisation that the pair teaches to avoid.

Invariant: both answers of a pair were judged, and its messages contain no instruction. The chosen one was not
cut at the limit of tokens. A dream makes at most one pair, so that an easy dream does not count twice. A
behaviour that the model does not show even when told makes no pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection

from agents.model.client import ModelClient
from agents.model.context import ContextSettings
from agents.pairs.attempts import Judge, PairSettings
from agents.pairs.logged import Lesson, PairsOfLogs
from agents.pairs.practice import is_good, is_overdone
from agents.pairs.trial import no_lift
from corpus.aliases import Progress
from corpus.behaviour import Behaviour, sides
from store import graph, queries
from store.ledger.db import Ledger
from store.ledger.placement_trial import PlacementTrial
from store.ledger.records import Attempt, Dream, Pair, identity
from store.queue.outcome import Outcome
from store.queue.work import Work


def pair_of_dream(dream: Dream, attempts: Sequence[Attempt]) -> Pair | None:
    """Return the pair that a dream's attempts make; None if it lacks a good or a bad answer.

    The rejected answer is the first attempt without an instruction that failed; else the first that failed
    because it was told another behaviour's instruction. The chosen answer is the first attempt that passed
    and was finished, without such an instruction; attempts without any come before those with the dream's own
    behaviour's.
    """
    own = [attempt for attempt in attempts if not attempt.instructed]
    overdone = [a for a in attempts if is_overdone(a, dream.behaviour)]
    rejected = next((attempt for attempt in (*own, *overdone) if not attempt.passed), None)
    guided = [a for a in attempts if a.instructed and not is_overdone(a, dream.behaviour)]
    chosen = next((attempt for attempt in (*own, *guided) if is_good(attempt)), None)
    if rejected is None or chosen is None:
        return None
    return Pair(
        id="p" + identity(dream.id, chosen.id, rejected.id),
        behaviour=dream.behaviour,
        messages=dream.messages,
        tools=dream.tools,
        chosen=chosen.text,
        rejected=rejected.text,
        chosen_from=f"{'instructed' if chosen.instructed else 'attempt'}:{chosen.id}",
        rejected_from=f"{'overgeneralised' if rejected.instructed else 'attempt'}:{rejected.id}",
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
    trial: PlacementTrial | None
    """The night's trial of where the behaviour's instruction works; None without one."""


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
        if inputs.trial is not None and inputs.trial.placement is None:
            reason = no_lift(inputs.trial, self.behaviours[inputs.trial.behaviour].do)
            return Outcome(facts={"pairs": 0, "dreams": len(inputs.dreams), "reason": reason})
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
            trial=next(
                (t for t in queries.placement_trials(connection, night_id) if t.behaviour in names), None
            ),
        )
