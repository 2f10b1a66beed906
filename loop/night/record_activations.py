"""Work of kind `listen`: the activations of turns and of the night's own attempts, kept as readings.

They are read on the weights that the night begins with. The readings of an episode's turns become feelings of
its node, which bring it forward among the episodes that are dreamt of (`store.graph.priority`), so they are
read before anything is dreamt.

Invariant: what is read follows from the ledger and the settings alone, not from how busy the machine is, so
the same night twice reads the same. The shared weights hold the active checkpoint meanwhile. What exceeds a
bound waits for the next night. This module knows nothing about the verdict.
"""

from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection

from agents.model.steering.concept_vectors import ConceptVectors
from agents.readout.collect import score_texts
from agents.readout.conversations import (
    ENOUGH_TURNS,
    read_feelings,
    replace_read_feelings,
    turn_texts,
    window_of,
)
from corpus.aliases import Progress
from loop.night.context import NightContext
from loop.night.readings import version_of
from store import queries
from store.ledger.records import Checkpoint, Night, seed_of
from store.queue.outcome import Outcome
from store.queue.work import Work
from store.readings import readings, vector_versions
from store.readings.records import AttemptReading, HeardTurn, TurnReading

DRAWS = 2**31
"""How many seeds there are."""


@dataclass(frozen=True)
class RecordActivations:
    """Read the texts that the subject names: `turns`, or `attempts`."""

    context: NightContext

    async def handle(self, item: Work, report: Progress) -> Outcome:
        """See `RecordActivations`."""
        context = self.context
        if not context.settings.monitor.enabled:
            return Outcome(facts={"reason": "monitor.enabled is false"})
        night = await context.ledger.read(queries.night, item.night_id)
        if not night.targets and not context.monitor.has_vectors:
            # Nothing will be trained, so there is no reason to make vectors.
            reason = "there are no concept vectors yet: the first update's night makes them"
            return Outcome(facts={"reason": reason})
        active = await context.ledger.read(queries.active)
        if item.subject == "turns":
            return await self._turns(night, active, report)
        return await self._attempts(night, active, report)

    async def _turns(self, night: Night, active: Checkpoint, report: Progress) -> Outcome:
        """Read the turns that no night has read, within the bounds."""
        settings = self.context.settings.monitor
        chosen, waiting = await self.context.ledger.read(
            chosen_turns, night.cursor, settings.turns, settings.share
        )
        if not chosen:
            return Outcome(facts={"turns": 0, "waiting": waiting})
        vectors = await self._vectors(active, report)
        window = window_of(vectors.concepts)
        turns: list[HeardTurn] = []
        texts: list[str] = []
        for heard in chosen.values():
            upto = turn_texts([turn.text for turn in heard], window)
            for turn, text in zip(heard, upto, strict=True):
                if not turn.read and len(turns) < settings.turns:
                    turns.append(turn)
                    texts.append(text)
        scores = await self._read(active, vectors, texts, report)
        weights = active.weights_sha256
        rows = [
            TurnReading(
                turn_id=turn.id,
                vectors=vectors.digest,
                weights_sha256=weights,
                night_id=night.id,
                scores=of_turn,
            )
            for turn, of_turn in zip(turns, scores, strict=True)
        ]
        then = partial(
            _save_turns,
            rows=rows,
            version=version_of(self.context.monitor, vectors),
            night_id=night.id,
            conversations=sorted(chosen),
        )
        return Outcome(then=then, facts={"turns": len(rows), "waiting": waiting})

    async def _attempts(self, night: Night, active: Checkpoint, report: Progress) -> Outcome:
        """Read some of the attempts that the night has made."""
        attempts = await self.context.ledger.read(
            readings.attempts_to_read, night.id, self.context.settings.monitor.attempts
        )
        if not attempts:
            return Outcome(facts={"attempts": 0})
        vectors = await self._vectors(active, report)
        window = window_of(vectors.concepts)
        texts = [
            turn_texts([*(m["content"] for m in row.messages), row.text], window)[-1] for row in attempts
        ]
        scores = await self._read(active, vectors, texts, report)
        weights = active.weights_sha256
        rows = [
            AttemptReading(
                attempt_id=attempt.id,
                vectors=vectors.digest,
                weights_sha256=weights,
                scores=of_attempt,
            )
            for attempt, of_attempt in zip(attempts, scores, strict=True)
        ]
        version = version_of(self.context.monitor, vectors)
        then = partial(_save_attempts, rows=rows, version=version, night_id=night.id)
        return Outcome(then=then, facts={"attempts": len(rows)})

    async def _vectors(self, active: Checkpoint, report: Progress) -> ConceptVectors:
        """Return the home's vectors, once the shared weights hold the active checkpoint."""
        await self.context.trainer.rollback(active.id, settled=True)
        return await self.context.monitor.concept_vectors(active.weights_sha256, report)

    async def _read(
        self, active: Checkpoint, vectors: ConceptVectors, texts: list[str], report: Progress
    ) -> list[list[float]]:
        """Return the scores of each of these texts."""
        monitor, weights = self.context.monitor, active.weights_sha256
        layer = monitor.layer_of(vectors)
        values = vectors.values[vectors.layers.index(layer)]
        scores = await score_texts(monitor.source(weights), texts, values, layer, report)
        return [readings.rounded(row) for row in scores]


def chosen_turns(
    connection: Connection, cursor: int, most: int, share: float
) -> tuple[dict[str, list[HeardTurn]], int]:
    """Return the conversations to read, with their turns, and how many turns are left for another night.

    Those that carry a signal come first; the others by their ids, which are digests.
    """
    waiting, pressing = readings.waiting(connection, cursor), readings.with_signals(connection)
    sampled = [name for name in waiting if seed_of("listen", name) < share * DRAWS]
    chosen, total = [], 0
    for conversation_id in sorted(sampled, key=lambda name: (name not in pressing, name)):
        if total >= most:
            break
        chosen.append(conversation_id)
        total += waiting[conversation_id]
    left = sum(waiting[name] for name in sampled) - min(total, most)
    return readings.heard(connection, sorted(chosen), cursor), left


def _save_turns(
    connection: Connection,
    *,
    rows: list[TurnReading],
    version: vector_versions.Version,
    night_id: str,
    conversations: list[str],
) -> None:
    """Save readings of turns, a new baseline, and the feelings of the episodes that the turns belong to."""
    vector_versions.meet(connection, version, night_id)
    readings.save_turns(connection, rows)
    usual = readings.take_baseline(connection, version.digest, night_id)
    if usual is None or usual.turns < ENOUGH_TURNS:
        return
    for node_id, (known, scores) in readings.episodes(connection, conversations, version.digest).items():
        read = read_feelings(scores, version.concepts, usual.mean, usual.spread)
        readings.set_feelings(connection, node_id, replace_read_feelings(known, read))


def _save_attempts(
    connection: Connection,
    *,
    rows: list[AttemptReading],
    version: vector_versions.Version,
    night_id: str,
) -> None:
    """Save readings of attempts."""
    vector_versions.meet(connection, version, night_id)
    readings.save_attempts(connection, rows)
