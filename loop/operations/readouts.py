"""`readout train`, `readout report`, `readout show`: estimate concept vectors, test them, and use them.

Invariant: these commands run only while no night runs and the active checkpoint is served. They refuse bad
options before a model is loaded. Of their results, only new vectors are recorded in the ledger.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, Literal

from sqlalchemy import Connection

from agents.readout.concept_vectors import METHODS, Method
from agents.readout.quality.examiner import Examiner, choose_layer, stored_vectors
from agents.readout.train import default_set, train_concept_vectors
from corpus.concept_sets import NAMES, ConceptSet, Name, load
from corpus.conversation import ROLES
from corpus.errors import GateRefused, UsageError
from corpus.json_edge import from_json
from loop.engine.service import Service
from loop.night.readings import version_of
from loop.operations.results.readouts import LayerAccuracy, Readings, TrainedVectors, VectorQuality
from store import queries
from store.ledger.records import Checkpoint
from store.readings import vector_versions

ALL: Literal["all"] = "all"
"""The value of the option `layers` that stands for every layer."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The options of `readout train`."""

    layers: tuple[int, ...] | Literal["all"] | None
    """Numbers of the layers, from 0; None for the layer that the monitor reads."""
    method: Method
    """The method of estimation."""
    corpus: Name | None
    """Name of the texts to use; None for the model's default."""
    minimum: int | None
    """Smallest number of texts that each concept must have; None for the default of these texts."""

    @classmethod
    def parse(
        cls, *, layers: Any = None, method: Any = METHODS[0], corpus: Any = None, minimum: Any = None
    ) -> "TrainOptions":
        """Return the options parsed from JSON values; the fields of the class describe them.

        Raises:
            UsageError: An option has a bad value.
        """
        if method not in METHODS:
            raise UsageError(f"there is no method {method!r}; there are {', '.join(METHODS)}")
        if corpus not in (None, *NAMES):
            raise UsageError(f"there is no corpus {corpus!r}; there are {', '.join(NAMES)}")
        if minimum is not None and not _is_number(minimum, 1):
            raise UsageError(f"minimum is a whole number from 1, not {minimum!r}")
        numbers = isinstance(layers, list) and layers and all(_is_number(layer, 0) for layer in layers)
        if layers not in (None, ALL) and not numbers:
            raise UsageError(f"layers are numbers from 0, or {ALL!r}: not {layers!r}")
        return cls(layers=tuple(layers) if numbers else layers, method=method, corpus=corpus, minimum=minimum)


def _is_number(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def check_training(service: Service, options: TrainOptions) -> ConceptSet:
    """Check the options, and return the set of concepts and texts that they name.

    The numbers of layers are checked only for the embedded server, because the layers of a vLLM's model are
    known only while the vLLM runs.

    Raises:
        UsageError: The options do not fit the model or the texts.
    """
    if service.processes.server.managed:
        _layers(service, options)
    texts = load(options.corpus or default_set(service.context.monitor.model_digest))
    texts.check(options.minimum)
    return texts


def _layers(service: Service, options: TrainOptions) -> list[int]:
    """Return the numbers of the layers that the options name, in ascending order."""
    monitor = service.context.monitor
    count = monitor.layers()
    if options.layers is None:
        return [monitor.layer]
    if options.layers == ALL:
        return list(range(count))
    layers = sorted(set(options.layers))
    if layers[-1] >= count:
        missing = next(layer for layer in layers if layer >= count)
        raise UsageError(f"this model's layers are 0 to {count - 1}: there is no layer {missing}")
    return layers


async def train(service: Service, options: TrainOptions) -> TrainedVectors:
    """Estimate concept vectors on the active weights, store them in the home, and return their data.

    They replace the vectors that the home had before.
    """
    began, texts = monotonic(), check_training(service, options)
    await service.processes.wait_ready()
    monitor, layers = service.context.monitor, _layers(service, options)
    active = await require_served(service)
    source = monitor.source(active.weights_sha256)
    report = service.worker.reporter("readout", "")
    vectors, rows = await train_concept_vectors(
        source, texts, layers=layers, method=options.method, report=report
    )
    count = monitor.layers()
    await service.ledger.write(_save, version_of(monitor, vectors, options.method))
    return TrainedVectors(
        concepts=list(vectors.concepts),
        corpus=texts.name,
        corpus_sha256=texts.sha256,
        method=options.method,
        texts=len({text for _, text in texts.texts}),
        layers=[
            LayerAccuracy(
                layer=row.layer, depth=round((row.layer + 1) / count, 3), accuracy=round(row.accuracy, 4)
            )
            for row in rows
        ],
        chance=round(1 / len(vectors.concepts), 4),
        hidden_size=vectors.hidden_size,
        model=vectors.model,
        checkpoint=active.id,
        weights_version=vectors.weights_version,
        directory=str(source.directory),
        seconds=round(monotonic() - began, 1),
    )


def _save(connection: Connection, version: vector_versions.Version) -> None:
    """Record in the ledger a version of the vectors that a user, not a night, has made."""
    last = queries.last_night(connection)
    vector_versions.meet(connection, version, last.id if last else "")


def check_reading(service: Service, *, layer: Any = None, turns: Any = None, concepts: Any = None) -> None:
    """Raise an error unless the home's vectors can read these turns, at this layer, for these concepts.

    Args:
        service: The opened service.
        layer: The layer; None for the default one.
        turns: The turns, each with its role and text; None if there are none to read.
        concepts: Names of the concepts; None for all.
    """
    monitor = service.context.monitor
    vectors, _ = stored_vectors(monitor.directory, monitor.model_digest)
    if layer is not None:
        choose_layer(vectors, layer, 0)
    for name in concepts or ():
        if name not in vectors.concepts:
            raise UsageError(f"there is no concept {name!r}; there are {', '.join(vectors.concepts)}")
    if turns is not None and not (isinstance(turns, list) and turns and all(map(_is_turn, turns))):
        raise UsageError(
            "the turns of a conversation are a list of {role, text}: at least one, and no empty text"
        )


def _is_turn(turn: Any) -> bool:
    if not isinstance(turn, dict) or turn.keys() != {"role", "text"}:
        return False
    role, text = turn["role"], turn["text"]
    return role in ROLES and isinstance(text, str) and bool(text.strip())


async def quality(service: Service, *, layer: int | None = None) -> VectorQuality:
    """Return the quality of one layer's vectors, and write it to the home's `readout` folder.

    Args:
        service: The opened service.
        layer: The layer; None for the default one.
    """
    examiner, active = await _examiner(service)
    load = partial(service.store.load_weights, active.id)
    report = await examiner.report(load, layer, service.worker.reporter("readout", ""))
    return VectorQuality(**vars(report), checkpoint=active.id)


async def readings(
    service: Service, *, turns: list[dict[str, str]], concepts: Sequence[str] = (), layer: int | None = None
) -> Readings:
    """Return a conversation's readings at the end of each turn.

    Args:
        service: The opened service.
        turns: The turns of the conversation, each with its role and text.
        concepts: Names of the concepts to read; empty for all.
        layer: The layer; None for the default one.
    """
    examiner, active = await _examiner(service)
    timeline = await examiner.timeline(turns, concepts, layer, service.worker.reporter("readout", ""))
    result: Readings = from_json(Readings, {**timeline, "checkpoint": active.id, "named": bool(concepts)})
    return result


async def _examiner(service: Service) -> tuple[Examiner, Checkpoint]:
    """Return an examiner, which tests vectors on the active weights, and the active checkpoint."""
    await service.processes.wait_ready()
    active = await require_served(service)
    monitor = service.context.monitor
    source = monitor.source(active.weights_sha256)
    return Examiner(source=source, monitored_layer=monitor.layer, layers=monitor.layers()), active


async def require_served(service: Service) -> Checkpoint:
    """Return the active checkpoint; raise an error unless it is served and no night runs."""
    if await service.ledger.read(queries.running_night) is not None:
        raise GateRefused(
            "a night is running, and reads with the current vectors: wait for its end (`nightschool status`)"
        )
    active, status = await service.ledger.read(queries.active), await service.trainer.status()
    if status.dirty or status.holds != active.id:
        raise GateRefused(
            f"{active.id[:12]}, the active checkpoint, is not in place yet: ask again in a moment"
        )
    return active
