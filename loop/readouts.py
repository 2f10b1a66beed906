"""Readouts in the loop: concept vectors made by hand, readings before and after an update, and how far they moved.

Invariant: the readings that a verdict compares were taken with the same vectors; vectors are made on the active
weights alone, while no night runs. Knows no file of theirs.
"""

from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import Connection

from agents.readout.train import default_set
from agents.readout.train import train as train_vectors
from agents.readout.vectors import METHODS
from corpus.concept_sets import NAMES, ConceptSet, load
from corpus.errors import GateRefused, NightschoolError, UsageError
from store import queries
from store.records import Reading

if TYPE_CHECKING:
    from loop.service import Service
    from loop.stages import Report, Stages

Json = dict[str, Any]
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
        not isinstance(layers, list) or not layers or any(type(layer) is not int or layer < 0 for layer in layers)
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
    return {
        "concepts": list(vectors.concepts),
        "corpus": texts.name,
        "corpus_sha256": texts.sha256,
        "method": method,
        "texts": len({text for _, text in texts.texts}),
        "layers": [
            {"layer": row.layer, "depth": round((row.layer + 1) / count, 3), "accuracy": round(row.accuracy, 4)}
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


async def settled(service: "Service") -> queries.Row:
    """The active checkpoint, if it is what is served, and no night is about to change that."""
    if await service.ledger.read(queries.running_night) is not None:
        raise GateRefused(
            "a night is running and reads with the vectors that there are: wait for it (`nightschool status`)"
        )
    active, status = await service.ledger.read(queries.active), await service.trainer.status()
    if status.dirty or status.holds != active["id"]:
        raise GateRefused(f"{active['id'][:12]}, the active checkpoint, is not in place yet: ask again in a moment")
    return active


async def take(stages: "Stages", night_id: str, when: str, report: "Report") -> tuple[Reading, ...]:
    """The readings of an update's parent ("before") or candidate ("after") that the ledger has not yet.

    After an update the parent's are taken again where they came of other vectors than there are now.
    """
    held = await stages.hold(night_id, when)
    vectors = await stages.monitor.vectors(held["weights_sha256"], report)
    found: tuple[Reading, ...] = ()
    for at in (when,) if when == "before" else (when, "before"):
        weights = (await stages.checkpoint(night_id, at))["weights_sha256"]
        if vectors.digest not in await stages.ledger.read(queries.read_with, weights):
            await stages.hold(night_id, at)
            found = (*found, *await stages.monitor.read(weights, vectors))
    return found


def pair(connection: Connection, parent: str, candidate: str) -> tuple[dict[str, queries.Row], dict[str, queries.Row]]:
    """The readings of both weights, taken with the same vectors."""
    vectors = max(queries.read_with(connection, parent, candidate), default="")
    if not vectors:
        raise NightschoolError(
            "the weights before and after were not read with the same vectors: no verdict without it"
        )
    return queries.readings(connection, parent, vectors), queries.readings(connection, candidate, vectors)


def drift(before: dict[str, queries.Row], after: dict[str, queries.Row]) -> dict[str, float]:
    """Each concept's move, in spreads of its readings over the panel before."""
    return {
        name: (after[name]["mean"] - row["mean"]) / max(row["spread"], 1e-6)
        for name, row in before.items()
        if name != "perplexity"
    }
