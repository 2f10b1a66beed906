"""Work of kind `listen`: record readings of conversation turns and of the night's own attempts.

The readings are taken on the weights with which the night begins. The readings of an episode's turns become
feelings in the memory graph. Feelings raise an episode's priority for dreams (`store.graph.priority`), so the
turns are read before the night dreams.

Invariant: the ledger and the settings alone decide which texts are read, not the load of the machine, so the
same night reads the same texts every time. The shared weights hold the active checkpoint meanwhile. Turns
beyond the configured limit wait for the next night. This module knows nothing about the verdict.
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
"""Number of different seeds; a conversation is sampled if its own seed is below a share of this number."""


@dataclass(frozen=True)
class RecordActivations:
    """The stage that takes readings of conversation turns, or of the night's attempts.

    The subject of its work is `turns` or `attempts`.
    """

    context: NightContext

    async def handle(self, item: Work, report: Progress) -> Outcome:
        """Return an outcome that saves the new readings, or one with the reason why none were taken."""
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
        """Read turns that no night has read yet, up to the configured number."""
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
        """Read the attempts that this night has made, up to the configured number."""
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
        """Write the active checkpoint to the shared weights, and return the home's concept vectors."""
        await self.context.trainer.rollback(active.id, settled=True)
        return await self.context.monitor.concept_vectors(active.weights_sha256, report)

    async def _read(
        self, active: Checkpoint, vectors: ConceptVectors, texts: list[str], report: Progress
    ) -> list[list[float]]:
        """Return the scores of each text, one for each concept."""
        monitor, weights = self.context.monitor, active.weights_sha256
        layer = monitor.layer_of(vectors)
        values = vectors.values[vectors.layers.index(layer)]
        scores = await score_texts(monitor.source(weights), texts, values, layer, report)
        return [readings.rounded(row) for row in scores]


def chosen_turns(
    connection: Connection, cursor: int, most: int, share: float
) -> tuple[dict[str, list[HeardTurn]], int]:
    """Return the turns to read, by conversation, and the number of turns left for later nights.

    Conversations with a signal come first, then the others in the order of their ids.

    Args:
        connection: The ledger.
        cursor: Id of the newest turn that belongs to the night.
        most: Number of turns after which no further conversation is taken.
        share: Share of the conversations that are sampled, from 0 to 1.
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
    """Save readings of turns, the usual readings that they give, and the feelings of their episodes."""
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
    """Save readings of attempts, and the vectors with which they were taken."""
    vector_versions.meet(connection, version, night_id)
    readings.save_attempts(connection, rows)
