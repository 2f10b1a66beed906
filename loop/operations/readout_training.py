"""`readout train`: concept vectors made by hand, on the active weights.

Invariant: vectors are made only while no night runs and the active checkpoint is what is served; what can be refused
is refused before a model is loaded.
"""

from time import monotonic
from typing import Any, Literal

from sqlalchemy import Connection

from agents.readout.concept_vectors import METHODS
from agents.readout.train import default_set, train_concept_vectors
from corpus.aliases import Json
from corpus.concept_sets import NAMES, ConceptSet, load
from corpus.errors import GateRefused, UsageError
from loop.engine.service import Service
from loop.night.readings import version_of
from store import queries
from store.ledger.records import Checkpoint
from store.readings import vector_versions

ALL: Literal["all"] = "all"
"""Every layer."""


def check(
    service: Service,
    *,
    layers: Any = None,
    method: Any = METHODS[0],
    corpus: Any = None,
    minimum: Any = None,
) -> ConceptSet:
    """Return the concept set that these options name; raise `UsageError` for options that cannot be carried out.

    Layers that the model does not have are refused here only if the model is known, which a vLLM's is once it runs.
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
    if service.processes.server.managed:
        _numbers(service, layers)
    texts = load(corpus or default_set(service.context.monitor.model_digest))
    texts.check(minimum)
    return texts


def _numbers(service: Service, layers: list[int] | Literal["all"] | None) -> list[int]:
    """Return the numbers of these layers, in order; None: the one that the monitor reads."""
    monitor = service.context.monitor
    count = monitor.layers()
    if layers is None:
        return [monitor.layer]
    if layers == ALL:
        return list(range(count))
    if beyond := sorted({layer for layer in layers if layer >= count}):
        raise UsageError(f"this model's layers are 0 to {count - 1}: there is no layer {beyond[0]}")
    return sorted(set(layers))


async def train(service: Service, **options: Any) -> Json:
    """Estimate the concept vectors on the active weights and replace the home's with them.

    Takes the options of `check`; progress counts the texts that have been read.
    """
    began, texts = monotonic(), check(service, **options)
    await service.processes.wait_ready()
    monitor, layers = service.context.monitor, _numbers(service, options.get("layers"))
    active = await require_settled(service)
    method = options.get("method", METHODS[0])
    source = monitor.source(active.weights_sha256)
    report = service.worker.reporter("readout", "")
    vectors, rows = await train_concept_vectors(source, texts, layers=layers, method=method, report=report)
    count = monitor.layers()
    await service.ledger.write(_save, version_of(monitor, vectors, method))
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
            for row in rows
        ],
        "chance": round(1 / len(vectors.concepts), 4),
        "hidden_size": vectors.hidden_size,
        "model": vectors.model,
        "checkpoint": active.id,
        "weights_version": vectors.weights_version,
        "directory": str(source.directory),
        "seconds": round(monotonic() - began, 1),
    }


def _save(connection: Connection, version: vector_versions.Version) -> None:
    """Save vectors that were made by hand."""
    last = queries.last_night(connection)
    vector_versions.meet(connection, version, last.id if last else "")


async def require_settled(service: Service) -> Checkpoint:
    """Return the active checkpoint, if it is what is served and no night is about to change that."""
    if await service.ledger.read(queries.running_night) is not None:
        raise GateRefused(
            "a night is running and reads with the vectors that there are: wait for it (`nightschool status`)"
        )
    active, status = await service.ledger.read(queries.active), await service.trainer.status()
    if status.dirty or status.holds != active.id:
        raise GateRefused(
            f"{active.id[:12]}, the active checkpoint, is not in place yet: ask again in a moment"
        )
    return active
