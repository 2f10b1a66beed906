"""A night listens: the turns of its conversations and its own attempts, read on the weights that it begins with.

The readings of an episode's turns become feelings of its node, which bring it forward among the episodes that are
dreamt of (`store.graph.priority`): so they are read before anything is dreamt.

Invariant: what is read follows from the ledger and the settings alone, not from how busy the machine is, so that the
same night twice reads the same; the mapping holds the active checkpoint meanwhile. What is left over by a bound waits
for the next night. Knows no verdict.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from agents.model.steering.concept_vectors import ConceptVectors
from agents.readout.ends import scores_at_ends
from agents.readout.felt import ENOUGH, felt, refelt
from agents.readout.turns import said_until, window_of
from corpus.aliases import Progress
from loop.night.readings import version_of
from store import queries
from store.ledger.records import seed_of
from store.queue.outcome import Outcome
from store.queue.work import Work
from store.readings import readings, vector_versions
from store.readings.readings import Heard

if TYPE_CHECKING:
    from loop.night.stages import Stages

Rows = list[dict[str, Any]]
DRAWS = 2**31
"""How many seeds there are."""


async def listen(stages: "Stages", item: Work, report: Progress) -> Outcome:
    """Read what the subject names: `turns`, or `attempts`."""
    settings = stages.settings.monitor
    if not settings.enabled:
        return Outcome(facts={"reason": "monitor.enabled is false"})
    night = await stages.ledger.read(queries.night, item.night_id)
    if (
        not night["targets"] and not stages.monitor.has_vectors
    ):  # nothing will be trained: no reason to make them
        return Outcome(
            facts={"reason": "there are no concept vectors yet: the first update's night makes them"}
        )
    active = await stages.ledger.read(queries.active)
    if item.subject == "turns":
        return await _turns(stages, night, active, report)
    return await _attempts(stages, night, active, report)


async def _turns(stages: "Stages", night: queries.Row, active: queries.Row, report: Progress) -> Outcome:
    """The turns that no night has read, within the bounds."""
    settings = stages.settings.monitor
    chosen, waiting = await stages.ledger.read(chosen_turns, night["cursor"], settings.turns, settings.share)
    if not chosen:
        return Outcome(facts={"turns": 0, "waiting": waiting})
    vectors = await _served(stages, active, report)
    window = window_of(vectors.concepts)
    turns: list[Heard] = []
    texts: list[str] = []
    for heard in chosen.values():
        said = said_until([turn.text for turn in heard], window)
        for turn, text in zip(heard, said, strict=True):
            if not turn.read and len(turns) < settings.turns:
                turns.append(turn)
                texts.append(text)
    rows = await _read(stages, active, vectors, texts, report)
    rows = [
        {"turn_id": turn.id, "night_id": night["id"], **row} for turn, row in zip(turns, rows, strict=True)
    ]
    then = partial(_heard, rows=rows, version=version_of(stages.monitor, vectors), night_id=night["id"])
    return Outcome(
        then=partial(then, conversations=sorted(chosen)), facts={"turns": len(rows), "waiting": waiting}
    )


async def _attempts(stages: "Stages", night: queries.Row, active: queries.Row, report: Progress) -> Outcome:
    """Some of the attempts that the night has made."""
    found = await stages.ledger.read(readings.attempts_to_read, night["id"], stages.settings.monitor.attempts)
    if not found:
        return Outcome(facts={"attempts": 0})
    vectors = await _served(stages, active, report)
    window = window_of(vectors.concepts)
    texts = [said_until([*(m["content"] for m in row["messages"]), row["text"]], window)[-1] for row in found]
    rows = await _read(stages, active, vectors, texts, report)
    rows = [{"attempt_id": attempt["id"], **row} for attempt, row in zip(found, rows, strict=True)]
    then = partial(_tried, rows=rows, version=version_of(stages.monitor, vectors), night_id=night["id"])
    return Outcome(then=then, facts={"attempts": len(rows)})


async def _served(stages: "Stages", active: queries.Row, report: Progress) -> ConceptVectors:
    """The home's vectors, with the active weights in the mapping."""
    await stages.trainer.rollback(active["id"], settled=True)
    return await stages.monitor.vectors(active["weights_sha256"], report)


async def _read(
    stages: "Stages", active: queries.Row, vectors: ConceptVectors, texts: list[str], report: Progress
) -> Rows:
    """The scores of these texts, as rows."""
    monitor, weights = stages.monitor, active["weights_sha256"]
    layer = monitor.read_at(vectors)
    values = vectors.values[vectors.layers.index(layer)]
    found = await scores_at_ends(monitor.source(weights), texts, values, layer, report)
    same = {"vectors": vectors.digest, "weights_sha256": weights}
    return [{**same, "scores": readings.rounded(row)} for row in found]


def chosen_turns(
    connection: Connection, cursor: int, most: int, share: float
) -> tuple[dict[str, list[Heard]], int]:
    """The conversations to read, with their turns, and how many turns are left for another night.

    Those that carry a signal come first; the others by their ids, which are digests.
    """
    waiting, pressing = readings.waiting(connection, cursor), readings.with_signals(connection)
    sampled = [one for one in waiting if seed_of("listen", one) < share * DRAWS]
    chosen, total = [], 0
    for conversation_id in sorted(sampled, key=lambda one: (one not in pressing, one)):
        if total >= most:
            break
        chosen.append(conversation_id)
        total += waiting[conversation_id]
    left = sum(waiting[one] for one in sampled) - min(total, most)
    return readings.heard(connection, sorted(chosen), cursor), left


def _heard(
    connection: Connection,
    *,
    rows: Rows,
    version: vector_versions.Version,
    night_id: str,
    conversations: list[str],
) -> None:
    """Note readings of turns, the baseline with them, and the feelings of the episodes that they belong to."""
    vector_versions.meet(connection, version, night_id)
    readings.save_turns(connection, rows)
    usual = readings.base(connection, version.digest, night_id)
    if usual is None or usual["turns"] < ENOUGH:
        return
    for node_id, (known, scores) in readings.episodes(connection, conversations, version.digest).items():
        read = felt(scores, version.concepts, usual["mean"], usual["spread"])
        readings.set_feelings(connection, node_id, refelt(known, read))


def _tried(connection: Connection, *, rows: Rows, version: vector_versions.Version, night_id: str) -> None:
    """Note readings of attempts."""
    vector_versions.meet(connection, version, night_id)
    readings.save_attempts(connection, rows)
