"""The pair builder: judged attempts and corrections in logs become (chosen, rejected).

Invariant: both sides of a pair were judged; the rejected side is the model's own answer; the context carries
no instruction. At most one pair a dream, so no easy dream is counted twice.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sqlalchemy import Connection

from agents.pairs.attempts import Judge, PairSettings
from corpus.behaviour import Behaviour, sides
from store import graph, queries
from store.ledger.db import Ledger
from store.ledger.records import Node, Pair, Signal, identity
from store.queue.outcome import Outcome
from store.queue.work import Work

Lesson = tuple[Signal, Node]
"""A signal of this night with the episode that it stands in."""


def from_dream(dream: queries.Row, attempts: list[queries.Row]) -> Pair | None:
    """The pair of one dream, or None when its attempts do not differ in the judge's eyes.

    chosen: the model's own passing answer if there is one, else one that it gave under instruction.
    """
    own = [a for a in attempts if not a["instructed"]]
    rejected = next((a for a in own if not a["passed"]), None)
    passing = [a for a in own if a["passed"]] or [a for a in attempts if a["passed"]]
    if rejected is None or not passing:
        return None
    chosen = passing[0]
    return Pair(
        id="p" + identity(dream["id"], chosen["id"], rejected["id"]),
        behaviour=dream["behaviour"],
        messages=dream["messages"],
        chosen=chosen["text"],
        rejected=rejected["text"],
        chosen_from=f"{'instructed' if chosen['instructed'] else 'attempt'}:{chosen['id']}",
        rejected_from=f"attempt:{rejected['id']}",
        dream_id=dream["id"],
        signal_id=None,
        source=dream["source"],
        trust=1.0,
        checkpoint_id=rejected["checkpoint_id"],
        state="new",
        night_id=dream["night_id"],
    )


@dataclass(frozen=True, kw_only=True)
class PairBuilder:
    """Handles work of kind `pair`; the subject is a behaviour's name."""

    ledger: Ledger
    behaviours: dict[str, Behaviour]
    judging: Judge
    settings: PairSettings

    async def handle(self, item: Work, report: Callable[[int, int], Awaitable[None]]) -> Outcome:
        """Build the pairs of a behaviour and its counter-behaviour."""
        names = [side.name for side in sides(item.subject, self.behaviours)]
        dreams, attempts, lessons, checkpoint = await self.ledger.read(self._inputs, item.night_id, names)
        found = [from_dream(dream, attempts[dream["id"]]) for dream in dreams]
        logged = [await self._from_log(lesson, item.night_id, checkpoint["id"]) for lesson in lessons]
        pairs = [pair for pair in found + logged if pair is not None]
        return Outcome(records=tuple(pairs), facts={"pairs": len(pairs), "dreams": len(dreams)})

    def _inputs(
        self, connection: Connection, night_id: str, names: list[str]
    ) -> tuple[list[queries.Row], dict[str, list[queries.Row]], list[Lesson], queries.Row]:
        dreams = queries.dreams(connection, night_id, names)
        attempts = queries.attempts(connection, [dream["id"] for dream in dreams])
        lessons = [
            lesson for lesson in graph.lessons_of(connection, night_id) if lesson[0].behaviour in names
        ]
        return dreams, attempts, lessons, queries.active(connection)

    async def _from_log(self, lesson: Lesson, night_id: str, checkpoint_id: str) -> Pair | None:
        """The pair that stands in a log: the answer that was corrected, and the one that replaced it."""
        signal, episode = lesson
        request, answer, better = (episode.body.get(key) for key in ("request", "answer", "better"))
        behaviour = self.behaviours[str(signal.behaviour)]
        if not (request and answer and better):
            return None
        messages = [{"role": "user", "content": request}]
        bad = await self.judging.judge(behaviour, messages, answer)
        good = await self.judging.judge(behaviour, messages, better)
        if bad.passed or not good.passed:
            return None
        place = f"log:{signal.conversation_id}:{signal.position}"
        return Pair(
            id="p" + identity(signal.id, answer, better),
            behaviour=behaviour.name,
            messages=messages,
            chosen=better,
            rejected=answer,
            chosen_from=place,
            rejected_from=place,
            dream_id=None,
            signal_id=signal.id,
            source=signal.source,
            trust=self.settings.trust_in_logs,
            checkpoint_id=checkpoint_id,
            state="new",
            night_id=night_id,
        )
