"""Work of kind `read`: take the concept vectors' readings on the probe set, before and after an update.

Invariant: a verdict compares only readings that were taken with the same vectors. When a new estimate of the
vectors is due, it is made before the update, never between the readings before and after. This module knows
nothing about the files of the vectors.
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
    """New readings, which the ledger does not have yet."""

    readings: tuple[Reading, ...]
    panels: tuple[tuple[str, Any], ...]
    """For each set of weights: its digest, and the scores of the probe set, `(n_texts, n_concepts)`."""
    version: vector_versions.Version
    """The vectors with which the readings were taken."""


@dataclass(frozen=True)
class TakeReadings:
    """The stage that takes the readings before or after the update.

    The subject of its work is "before" for the update's parent, "after" for its candidate.
    """

    context: NightContext

    async def handle(self, item: Work, report: Progress) -> Outcome:
        """Return an outcome that saves the new readings in the ledger."""
        taken = await self.take(item.night_id, item.subject, report)
        means = {reading.name: round(reading.mean, 4) for reading in taken.readings}
        keep = partial(save_taken, taken=taken, night_id=item.night_id)
        return Outcome(records=taken.readings, then=keep, facts=means or {"known": True})

    async def take(self, night_id: str, when: str, report: Progress) -> Taken:
        """Take and return the readings that the ledger does not have yet.

        After an update this includes the readings of the parent, if the ledger has none with the present
        vectors.

        Args:
            night_id: The night.
            when: "before" or "after" the update.
            report: Function that receives the progress.
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
        """Return whether it is time for a new estimate of the vectors.

        That is so if they were estimated on other weights and are old enough, in nights. It is not so if the
        ledger does not know these vectors: then a user or an interrupted night made them recently.

        Args:
            connection: The ledger.
            night_id: The present night.
            vectors: The home's vectors.
            weights: Digest of the weights before the update.
        """
        nights = self.context.settings.monitor.reestimate_nights
        last = vector_versions.last_version(connection)
        if not nights or last is None or last.digest != vectors.digest:
            return False
        if vectors.weights_version == weights:
            return False
        return vector_versions.nights_old(connection, night_id) >= nights


def save_taken(connection: Connection, taken: Taken, night_id: str) -> None:
    """Save in the ledger the vectors of the new readings, and the scores of the probe set."""
    vector_versions.meet(connection, taken.version, night_id)
    for weights, scores in taken.panels:
        stored.save_panel(connection, weights, taken.version.digest, stored.rounded(scores))


def version_of(
    monitor: Monitor, vectors: ConceptVectors, method: str | None = None
) -> vector_versions.Version:
    """Return the ledger's record of these vectors, at the layer from which the monitor reads.

    Args:
        monitor: The monitor, which chooses the layer.
        vectors: The vectors of all their layers.
        method: The method of their estimation; None if it is not known.
    """
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
    """Return whether the ledger has the readings, scores and perplexity of these weights.

    Args:
        connection: The ledger.
        weights: Digest of the weights.
        vectors: Digest of the vectors.
        text: Name of the ordinary text whose perplexity is taken.
    """
    known = vectors in queries.read_with(connection, weights)
    known = known and text in queries.perplexities(connection, weights)
    return known and stored.panel(connection, weights, vectors) is not None


def pair(
    connection: Connection, parent: str, candidate: str
) -> tuple[dict[str, Reading], dict[str, Reading]]:
    """Return the readings before and after an update, by concept, taken with the same vectors.

    Args:
        connection: The ledger.
        parent: Digest of the weights before.
        candidate: Digest of the weights after.

    Raises:
        NightschoolError: No vectors have read both.
    """
    vectors = vector_versions.together(connection, parent, candidate)
    if not vectors:
        raise NightschoolError(
            "the weights before and after were not read with the same vectors: no verdict without it"
        )
    return queries.readings(connection, parent, vectors), queries.readings(connection, candidate, vectors)


def perplexity(connection: Connection, parent: str, candidate: str) -> tuple[float, float]:
    """Return the perplexity before and after an update, on the same ordinary text.

    Args:
        connection: The ledger.
        parent: Digest of the weights before.
        candidate: Digest of the weights after.

    Raises:
        NightschoolError: No text was read with both.
    """
    before, after = queries.perplexity_pair(connection, parent, candidate)
    if before is None or after is None:
        raise NightschoolError(
            "the perplexity was not taken on the same text before and after: no verdict without it"
        )
    return before, after


def drift(before: dict[str, Reading], after: dict[str, Reading]) -> dict[str, float]:
    """Return how far each concept's reading moved, by concept.

    The unit is the standard deviation of the concept's scores over the probe set before the update.
    """
    return {name: row.move_to(after[name]) for name, row in before.items() if name != "perplexity"}


def joint(connection: Connection, parent: str, candidate: str) -> Joint | None:
    """Return how far all readings moved together; None if the ledger lacks the scores of the probe set."""
    vectors = vector_versions.together(connection, parent, candidate)
    sides = [stored.panel(connection, weights, vectors) for weights in (parent, candidate)]
    concepts = {row.digest: row.concepts for row in vector_versions.versions(connection)}
    if sides[0] is None or sides[1] is None or vectors not in concepts:
        return None
    return drifts.joint(sides[0], sides[1], concepts[vectors])
