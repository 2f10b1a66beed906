"""Work of kind `locate`: find the parts of the weights that an update changed most.

Invariant: this work runs after the candidate was written to disk and its readings were taken. It reads two
checkpoints and the ledger, and changes no weights. If it fails, the night goes on.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio.to_thread
import numpy as np
from sqlalchemy import Connection

from corpus.aliases import Progress
from corpus.json_edge import to_json
from loop.night import readings
from loop.night.context import NightContext
from store.queue.outcome import Outcome
from store.queue.work import Work
from store.readings import readings as stored
from store.readings import vector_versions
from store.readings.records import Moves
from store.tensors.changes import Heads
from store.tensors.localize import Located, locate

MOVED = 8
"""Number of concepts, those whose readings moved most, that are stored with the result."""
ALONG = 3
"""Number of these concepts whose vectors are compared with the changes of the weights."""


@dataclass(frozen=True, kw_only=True)
class _Moved:
    """The concepts whose readings an update moved most."""

    readings: dict[str, float]
    """How far each reading moved, in standard deviations, by concept; the largest move first."""
    directions: dict[str, Any]
    """Concept vectors of the first ALONG of these concepts, each `(hidden_size,)`."""
    layer: int
    """The layer after which these vectors were taken from the residual stream."""


@dataclass(frozen=True)
class Locate:
    """The stage that finds the layers, heads and projections that changed most.

    It also compares these changes with the concept vectors whose readings moved most.
    """

    context: NightContext

    async def handle(self, item: Work, report: Progress) -> Outcome:
        """Return an outcome that saves the location of the update's changes in the ledger."""
        context = self.context
        if not context.settings.monitor.locate:
            return Outcome(facts={"reason": "monitor.locate is false"})
        update = await context.update(item.night_id)
        sides = [await context.checkpoint(item.night_id, when) for when in ("before", "after")]
        moved = await context.ledger.read(_most_moved, *(side.weights_sha256 for side in sides))
        located = await anyio.to_thread.run_sync(self._locate, [side.id for side in sides], moved)
        moves = Moves(
            update_id=update.id,
            readings=moved.readings,
            parts=to_json(located),
            verdict=located.verdict,
        )
        return Outcome(
            then=partial(stored.save_moves, found=moves),
            facts={"update": update.id, "verdict": moves.verdict},
        )

    def _locate(self, checkpoint_ids: list[str], moved: _Moved) -> Located:
        """Return where the weights differ between two checkpoints, the one before and the one after."""
        counts = self.context.monitor.heads()
        heads = None if counts is None else Heads(query=counts[0], key_value=counts[1])
        before, after = (self.context.store.load_weights(name) for name in checkpoint_ids)
        return locate(before, after, heads, vectors=moved.directions, layer=moved.layer)


def _most_moved(connection: Connection, parent: str, candidate: str) -> _Moved:
    """Return the concepts whose readings moved most between two sets of weights, given by digest.

    Return an empty record if the newest version of the vectors has not read both sets of weights.
    """
    vectors = vector_versions.together(connection, parent, candidate)
    last = vector_versions.last_version(connection)
    if not vectors or last is None or last.data is None or last.digest != vectors:
        return _Moved(readings={}, directions={}, layer=0)
    moves = readings.drift(*readings.pair(connection, parent, candidate))
    order = sorted(moves, key=lambda name: (-abs(moves[name]), name))
    values = np.frombuffer(last.data, dtype=np.float32).reshape(len(last.concepts), -1)
    return _Moved(
        readings={name: round(moves[name], 3) for name in order[:MOVED]},
        directions={name: values[last.concepts.index(name)] for name in order[:ALONG]},
        layer=int(last.layer),
    )
