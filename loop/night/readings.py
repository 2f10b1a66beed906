"""Work of kind `read`: what the concept vectors read on the probe set, before and after an update.

Invariant: the readings that a verdict compares were taken with the same vectors. Vectors that are due are
estimated again before an update, never between its two sides. This module knows nothing about their files.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from sqlalchemy import Connection

from agents.model.steering.concept_vectors import ConceptVectors
from agents.readout import drift as drifts
from agents.readout.concept_vectors import METHODS, Method
from agents.readout.drift import Joint
from agents.readout.monitor import Monitor
from corpus.aliases import Progress
from corpus.errors import NightschoolError
from loop.night.context import NightContext
from store import queries
from store.ledger.records import Reading
from store.queue.outcome import Outcome
from store.queue.work import Work
from store.readings import readings as stored
from store.readings import vector_versions


@dataclass(frozen=True, kw_only=True)
class Taken:
    """Readings that the ledger has not yet."""

    readings: tuple[Reading, ...]
    panels: tuple[tuple[str, Any], ...]
    """Weights, and the scores of the probe set's texts, `(n_texts, n_concepts)`."""
    version: vector_versions.Version
    """The vectors that they were taken with."""


@dataclass(frozen=True)
class TakeReadings:
    """Take the readings of the update's parent ("before") or candidate ("after"); the subject says which."""

    context: NightContext

    async def handle(self, item: Work, report: Progress) -> Outcome:
        """See `TakeReadings`."""
        taken = await self.take(item.night_id, item.subject, report)
        means = {reading.name: round(reading.mean, 4) for reading in taken.readings}
        keep = partial(save_taken, taken=taken, night_id=item.night_id)
        return Outcome(records=taken.readings, then=keep, facts=means or {"known": True})

    async def take(self, night_id: str, when: str, report: Progress) -> Taken:
        """Take the readings that the ledger does not have yet.

        After an update, the parent's readings are taken again if they came from other vectors than today's.
        """
        context, monitor = self.context, self.context.monitor
        held = await context.hold(night_id, when)
        vectors, method = await monitor.concept_vectors(held.weights_sha256, report), None
        if when == "before" and await context.ledger.read(
            self._is_due, night_id, vectors, held.weights_sha256
        ):
            last = await context.ledger.read(vector_versions.last_version)
            method = cast(Method, (last and last.method) or METHODS[0])
            vectors = await monitor.reestimate(held.weights_sha256, vectors, method, report)
        readings: tuple[Reading, ...] = ()
        text = monitor.ordinary_text.name
        panels = []
        for side in (when,) if when == "before" else (when, "before"):
            weights = (await context.checkpoint(night_id, side)).weights_sha256
            if not await context.ledger.read(_is_read, weights, vectors.digest, text):
                await context.hold(night_id, side)
                scores = await monitor.score_probe_set(weights, vectors)
                readings = (*readings, *await monitor.read(weights, vectors, scores))
                panels.append((weights, scores))
        return Taken(readings=readings, panels=tuple(panels), version=version_of(monitor, vectors, method))

    def _is_due(self, connection: Connection, night_id: str, vectors: ConceptVectors, weights: str) -> bool:
        """Return whether a new estimate of the vectors is due: enough nights have passed, on other weights.

        Vectors that the ledger does not know are left: a user, or a night that was broken off, has made them
        since.
        """
        nights = self.context.settings.monitor.reestimate_nights
        last = vector_versions.last_version(connection)
        if not nights or last is None or last.digest != vectors.digest:
            return False
        if vectors.weights_version == weights:
            return False
        return vector_versions.nights_old(connection, night_id) >= nights


def save_taken(connection: Connection, taken: Taken, night_id: str) -> None:
    """Save the vectors of these readings and the scores of the probe set."""
    vector_versions.meet(connection, taken.version, night_id)
    for weights, scores in taken.panels:
        stored.save_panel(connection, weights, taken.version.digest, stored.rounded(scores))


def version_of(
    monitor: Monitor, vectors: ConceptVectors, method: str | None = None
) -> vector_versions.Version:
    """Return the vectors as the ledger keeps them, at the layer that they are read at."""
    layer = monitor.layer_of(vectors)
    return vector_versions.Version(
        digest=vectors.digest,
        weights_sha256=vectors.weights_version,
        layer=layer,
        concepts=vectors.concepts,
        corpus_sha256=vectors.corpus_sha256,
        values=vectors.values[vectors.layers.index(layer)],
        method=method,
    )


def _is_read(connection: Connection, weights: str, vectors: str, text: str) -> bool:
    """Return whether the ledger has everything that is read of these weights with these vectors and text."""
    known = vectors in queries.read_with(connection, weights)
    known = known and text in queries.perplexities(connection, weights)
    return known and stored.panel(connection, weights, vectors) is not None


def pair(
    connection: Connection, parent: str, candidate: str
) -> tuple[dict[str, Reading], dict[str, Reading]]:
    """Return the readings of both weights, taken with the same vectors."""
    vectors = vector_versions.together(connection, parent, candidate)
    if not vectors:
        raise NightschoolError(
            "the weights before and after were not read with the same vectors: no verdict without it"
        )
    return queries.readings(connection, parent, vectors), queries.readings(connection, candidate, vectors)


def perplexity(connection: Connection, parent: str, candidate: str) -> tuple[float, float]:
    """Return the perplexity of both weights on the same ordinary text."""
    before, after = queries.perplexity_pair(connection, parent, candidate)
    if before is None or after is None:
        raise NightschoolError(
            "the perplexity was not taken on the same text before and after: no verdict without it"
        )
    return before, after


def drift(before: dict[str, Reading], after: dict[str, Reading]) -> dict[str, float]:
    """Return each concept's move, in standard deviations of its readings over the probe set before."""
    return {name: row.move_to(after[name]) for name, row in before.items() if name != "perplexity"}


def joint(connection: Connection, parent: str, candidate: str) -> Joint | None:
    """Return how far the readings moved together; None if the scores of the probe set were not kept."""
    vectors = vector_versions.together(connection, parent, candidate)
    sides = [stored.panel(connection, weights, vectors) for weights in (parent, candidate)]
    concepts = {row.digest: row.concepts for row in vector_versions.versions(connection)}
    if sides[0] is None or sides[1] is None or vectors not in concepts:
        return None
    return drifts.joint(sides[0], sides[1], concepts[vectors])
