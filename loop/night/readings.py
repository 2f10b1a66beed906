"""Readouts in the loop: concept vectors made by hand, readings before and after an update, and how far they moved.

Invariant: the readings that a verdict compares were taken with the same vectors; vectors are made on the active
weights alone, while no night runs. Knows no file of theirs.
"""

from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import Connection

from agents.model.steering.concept_vectors import ConceptVectors
from agents.readout import drift as drifts
from agents.readout.drift import FLOOR, Joint
from agents.readout.monitor import Monitor
from agents.readout.train import default_set
from agents.readout.train import train as train_vectors
from agents.readout.vectors import METHODS
from corpus.aliases import Json, Progress
from corpus.concept_sets import NAMES, ConceptSet, load
from corpus.errors import GateRefused, NightschoolError, UsageError
from store import queries
from store.ledger.records import Reading
from store.readings import readings as inner
from store.readings import vector_versions

if TYPE_CHECKING:
    from loop.engine.worker import Service
    from loop.night.stages import Stages

ALL: Literal["all"] = "all"
"""Every layer."""


def check(
    service: "Service",
    *,
    layers: Any = None,
    method: Any = METHODS[0],
    corpus: Any = None,
    minimum: Any = None,
) -> ConceptSet:
    """The concept set that is asked for, fit to make vectors of; raises `UsageError` for what cannot be done.

    Layers that the model has not are found here only if the model is known, which a vLLM's is once it runs.
    """
    if method not in METHODS:
        raise UsageError(f"there is no method {method!r}; there are {', '.join(METHODS)}")
    if corpus not in (None, *NAMES):
        raise UsageError(f"there is no corpus {corpus!r}; there are {', '.join(NAMES)}")
    if minimum is not None and (type(minimum) is not int or minimum < 1):
        raise UsageError(f"the least number of texts is a whole number from 1, not {minimum!r}")
    if layers not in (None, ALL) and (
        not isinstance(layers, list)
        or not layers
        or any(type(layer) is not int or layer < 0 for layer in layers)
    ):
        raise UsageError(f"layers are numbers from 0, or {ALL!r}: not {layers!r}")
    if service.crew.server.ours:
        _numbers(service, layers)
    texts = load(corpus or default_set(service.stages.monitor.model_digest))
    texts.check(minimum)
    return texts


def _numbers(service: "Service", layers: list[int] | Literal["all"] | None) -> list[int]:
    """Numbers of the layers that are asked for, in order; None: the one that the monitor reads."""
    monitor = service.stages.monitor
    count = monitor.layers()
    if layers is None:
        return [monitor.layer]
    if layers == ALL:
        return list(range(count))
    if beyond := sorted({layer for layer in layers if layer >= count}):
        raise UsageError(f"this model's layers are 0 to {count - 1}: there is no layer {beyond[0]}")
    return sorted(set(layers))


async def train(service: "Service", **asked: Any) -> Json:
    """Estimate the concept vectors on the active weights, and put them in the place of those in the home.

    Takes what `check` takes; progress is that of the texts that have been read.
    """
    began, texts = monotonic(), check(service, **asked)
    await service.crew.here()
    layers = _numbers(service, asked.get("layers"))
    active = await settled(service)
    method = asked.get("method", METHODS[0])
    source = service.stages.monitor.source(active["weights_sha256"])
    report = service.reporter("readout", "")
    vectors, told = await train_vectors(source, texts, layers=layers, method=method, report=report)
    count = service.stages.monitor.layers()
    await service.ledger.write(_made, version_of(service.stages.monitor, vectors, method))
    return {
        "concepts": list(vectors.concepts),
        "corpus": texts.name,
        "corpus_sha256": texts.sha256,
        "method": method,
        "texts": len({text for _, text in texts.texts}),
        "layers": [
            {
                "layer": row.layer,
                "depth": round((row.layer + 1) / count, 3),
                "accuracy": round(row.accuracy, 4),
            }
            for row in told
        ],
        "chance": round(1 / len(vectors.concepts), 4),
        "hidden_size": vectors.hidden_size,
        "model": vectors.model,
        "checkpoint": active["id"],
        "weights_version": vectors.weights_version,
        "directory": str(source.directory),
        "seconds": round(monotonic() - began, 1),
    }


def _made(connection: Connection, version: vector_versions.Version) -> None:
    """Note vectors that were made by hand."""
    last = queries.last_night(connection)
    vector_versions.meet(connection, version, last["id"] if last else "")


async def settled(service: "Service") -> queries.Row:
    """The active checkpoint, if it is what is served, and no night is about to change that."""
    if await service.ledger.read(queries.running_night) is not None:
        raise GateRefused(
            "a night is running and reads with the vectors that there are: wait for it (`nightschool status`)"
        )
    active, status = await service.ledger.read(queries.active), await service.trainer.status()
    if status.dirty or status.holds != active["id"]:
        raise GateRefused(
            f"{active['id'][:12]}, the active checkpoint, is not in place yet: ask again in a moment"
        )
    return active


@dataclass(frozen=True, kw_only=True)
class Taken:
    """Readings that the ledger has not yet."""

    readings: tuple[Reading, ...]
    panels: tuple[tuple[str, Any], ...]
    """Weights, and the scores of the panel's texts, `(n_texts, n_concepts)`."""
    version: vector_versions.Version
    """The vectors that they were taken with."""


async def take(stages: "Stages", night_id: str, when: str, report: Progress) -> Taken:
    """The readings of an update's parent ("before") or candidate ("after") that the ledger has not yet.

    After an update the parent's are taken again where they came of other vectors than there are now. Vectors that are
    due are estimated anew before an update, never between its two sides.
    """
    held = await stages.hold(night_id, when)
    vectors, method = await stages.monitor.vectors(held["weights_sha256"], report), None
    if when == "before" and await stages.ledger.read(_due, stages, night_id, vectors, held["weights_sha256"]):
        last = await stages.ledger.read(vector_versions.last_version)
        method = (last or {}).get("method") or METHODS[0]
        vectors = await stages.monitor.again(held["weights_sha256"], vectors, method, report)
    readings: tuple[Reading, ...] = ()
    panels = []
    for at in (when,) if when == "before" else (when, "before"):
        weights = (await stages.checkpoint(night_id, at))["weights_sha256"]
        if not await stages.ledger.read(_is_read, weights, vectors.digest):
            await stages.hold(night_id, at)
            scores = await stages.monitor.panel(weights, vectors)
            readings = (*readings, *await stages.monitor.read(weights, vectors, scores))
            panels.append((weights, scores))
    return Taken(readings=readings, panels=tuple(panels), version=version_of(stages.monitor, vectors, method))


def keep(connection: Connection, taken: Taken, night_id: str) -> None:
    """Note the vectors of readings, and the panel's scores."""
    vector_versions.meet(connection, taken.version, night_id)
    for weights, scores in taken.panels:
        inner.save_panel(connection, weights, taken.version.digest, inner.rounded(scores))


def version_of(
    monitor: Monitor, vectors: ConceptVectors, method: str | None = None
) -> vector_versions.Version:
    """Vectors as the ledger notes them, at the layer that they read at."""
    layer = monitor.read_at(vectors)
    return vector_versions.Version(
        digest=vectors.digest,
        weights_sha256=vectors.weights_version,
        layer=layer,
        concepts=vectors.concepts,
        corpus_sha256=vectors.corpus_sha256,
        values=vectors.values[vectors.layers.index(layer)],
        method=method,
    )


def _due(
    connection: Connection, stages: "Stages", night_id: str, vectors: ConceptVectors, weights: str
) -> bool:
    """Whether it is time to estimate the vectors anew: so many nights after the last time, on other weights.

    Not those that the ledger has not met: somebody has made them since, or a night that was broken off.
    """
    nights, last = stages.settings.monitor.reestimate_nights, vector_versions.last_version(connection)
    if not nights or last is None or last["digest"] != vectors.digest or vectors.weights_version == weights:
        return False
    return vector_versions.nights_old(connection, night_id) >= nights


def _is_read(connection: Connection, weights: str, vectors: str) -> bool:
    """Whether the ledger has all that is read of these weights with these vectors."""
    there = vectors in queries.read_with(connection, weights)
    return there and inner.panel(connection, weights, vectors) is not None


def pair(
    connection: Connection, parent: str, candidate: str
) -> tuple[dict[str, queries.Row], dict[str, queries.Row]]:
    """The readings of both weights, taken with the same vectors."""
    vectors = vector_versions.together(connection, parent, candidate)
    if not vectors:
        raise NightschoolError(
            "the weights before and after were not read with the same vectors: no verdict without it"
        )
    return queries.readings(connection, parent, vectors), queries.readings(connection, candidate, vectors)


def drift(before: dict[str, queries.Row], after: dict[str, queries.Row]) -> dict[str, float]:
    """Each concept's move, in spreads of its readings over the panel before."""
    return {
        name: (after[name]["mean"] - row["mean"]) / max(row["spread"], FLOOR)
        for name, row in before.items()
        if name != "perplexity"
    }


def joint(connection: Connection, parent: str, candidate: str) -> Joint | None:
    """How far the readings moved together; None where the panel was not kept, as before it was."""
    vectors = vector_versions.together(connection, parent, candidate)
    sides = [inner.panel(connection, weights, vectors) for weights in (parent, candidate)]
    met = {row["digest"]: row["concepts"] for row in vector_versions.versions(connection)}
    if sides[0] is None or sides[1] is None or vectors not in met:
        return None
    return drifts.joint(sides[0], sides[1], met[vectors])
