"""Looking at readouts in the loop: the vectors' quality on the active weights, and a conversation's readings.

Invariant: only while no night runs and the active checkpoint is what is served; what can be refused is refused before
a model is loaded. Changes nothing in the ledger.
"""

from functools import partial
from typing import Any

from agents.readout.quality.examiner import Examiner, choose_layer, stored_vectors
from corpus.aliases import Json
from corpus.conversation import ROLES
from corpus.errors import UsageError
from loop.engine.service import Service
from loop.operations.readout_training import require_settled
from store.ledger.records import Checkpoint


def check(service: Service, *, layer: Any = None, turns: Any = None, concepts: Any = None) -> None:
    """Raise unless there are vectors of this model, of the layer and with the concepts that are named, and `turns`,
    where they are given, are a conversation's."""
    monitor = service.context.monitor
    vectors, _ = stored_vectors(monitor.directory, monitor.model_digest)
    if layer is not None:
        choose_layer(vectors, layer, 0)
    for name in concepts or ():
        if name not in vectors.concepts:
            raise UsageError(f"there is no concept {name!r}; there are {', '.join(vectors.concepts)}")
    if turns is not None and not (isinstance(turns, list) and turns and all(map(_is_turn, turns))):
        raise UsageError(
            "the turns of a conversation are a list of {role, text}, one at least and none without words"
        )


async def report(service: Service, *, layer: int | None = None) -> Json:
    """The quality report of one layer's vectors, also written to the home's `readout` folder."""
    examiner, active = await _examiner(service)
    load = partial(service.store.load_weights, active.id)
    told = await examiner.report(load, layer, service.worker.reporter("readout", ""))
    return {**told, "checkpoint": active.id}


async def show(
    service: Service,
    *,
    turns: list[dict[str, str]],
    concepts: list[str] | None = None,
    layer: int | None = None,
) -> Json:
    """The readings of a conversation at the end of each turn; of the named concepts, else of all."""
    examiner, active = await _examiner(service)
    told = await examiner.timeline(turns, concepts or (), layer, service.worker.reporter("readout", ""))
    return {**told, "checkpoint": active.id, "named": bool(concepts)}


async def _examiner(service: Service) -> tuple[Examiner, Checkpoint]:
    """What looks at the active weights, once they are served, and the row of their checkpoint."""
    await service.processes.wait_ready()
    active = await require_settled(service)
    monitor = service.context.monitor
    source = monitor.source(active.weights_sha256)
    return Examiner(source=source, monitored_layer=monitor.layer, layers=monitor.layers()), active


def _is_turn(turn: Any) -> bool:
    return (
        isinstance(turn, dict)
        and turn.keys() == {"role", "text"}
        and turn["role"] in ROLES
        and isinstance(turn["text"], str)
        and bool(turn["text"].strip())
    )
