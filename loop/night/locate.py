"""Where an update lies in the weights, looked up once its candidate is on the disk and has been read.

Invariant: reads two checkpoints and the ledger, changes no weight; the night goes on without it where it fails.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import numpy as np
from sqlalchemy import Connection

from corpus.aliases import Progress
from loop.night import readings as readouts
from store import queries
from store.queue.outcome import Outcome
from store.queue.work import Work
from store.readings import readings as inner
from store.readings import vector_versions
from store.tensors import localize
from store.tensors.changes import Heads, changes

if TYPE_CHECKING:
    from loop.night.stages import Stages

MOVED = 8
"""Readings that are kept with it, those that moved most."""
ALONG = 3
"""Of those, so many are looked for in the weights."""


async def locate(stages: "Stages", item: Work, report: Progress) -> Outcome:
    """Note which layers, heads and projections changed most, against what the readings say."""
    if not stages.settings.monitor.locate:
        return Outcome(facts={"reason": "monitor.locate is false"})
    sides = [await stages.checkpoint(item.night_id, when) for when in ("before", "after")]
    update = await stages.ledger.read(queries.update_of, item.night_id)
    readings, directions, layer = await stages.ledger.read(_read, *(side["weights_sha256"] for side in sides))
    counts = stages.monitor.heads()
    heads = None if counts is None else Heads(query=counts[0], key_value=counts[1])
    look = partial(_look, stages, [side["id"] for side in sides], heads, directions, layer)
    parts = await anyio.to_thread.run_sync(look)
    assert update is not None  # its candidate was found
    found = inner.Moves(
        update_id=update["id"], readings=readings, parts=parts, verdict=localize.verdict_on(parts)
    )
    return Outcome(
        then=partial(inner.save_moves, found=found), facts={"update": update["id"], "verdict": found.verdict}
    )


def _look(
    stages: "Stages", ids: list[str], heads: Heads | None, directions: dict[str, Any], layer: int
) -> dict[str, Any]:
    """The parts of the change between two checkpoints, and which of them write along these directions."""
    before, after = (stages.store.load_weights(checkpoint_id) for checkpoint_id in ids)
    parts = localize.parts_of(list(changes(before, after, heads)))
    return {**parts, "along": localize.along(before, after, directions, layer=layer)}


def _read(
    connection: Connection, parent: str, candidate: str
) -> tuple[dict[str, float], dict[str, Any], int]:
    """The readings that moved most, in spreads; the vectors of the first of them; the layer that these lie after."""
    vectors = vector_versions.together(connection, parent, candidate)
    last = vector_versions.last_version(connection)
    if not vectors or last is None or last["digest"] != vectors:
        return {}, {}, 0
    moves = readouts.drift(*readouts.pair(connection, parent, candidate))
    order = sorted(moves, key=lambda name: (-abs(moves[name]), name))
    values = np.frombuffer(last["data"], dtype=np.float32).reshape(len(last["concepts"]), -1)
    directions = {name: values[last["concepts"].index(name)] for name in order[:ALONG]}
    return {name: round(moves[name], 3) for name in order[:MOVED]}, directions, int(last["layer"])
