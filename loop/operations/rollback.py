"""A rollback: what is pointed at, what is refused, and how a night that is in the way ends.

Invariant: nothing is changed before the checkpoint was found whole. The pointer moves in one transaction; what is
served follows it.
"""

from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from corpus.aliases import Json
from corpus.errors import IntegrityFault
from loop.engine.service import Service
from store import queries
from store.checkpoints.store import CheckpointStore
from store.ledger.records import Checkpoint, Night
from store.nights import history

BY_HAND = "rolled back by hand"
"""Why the pointer was moved, and why a night was ended with it."""
LOOK_S = 0.05
"""Between two looks at whether a night has ended."""


async def roll_back(service: Service, *, target: str | None, dry_run: bool, now: bool) -> Json:
    """Point at an earlier kept checkpoint and serve it; with `now` a night that runs is ended first."""
    night = await service.ledger.read(queries.running_night) if now else None
    found = await service.ledger.read(_target, target, night)
    others = await service.ledger.read(history.nearest, found.id)
    await anyio.to_thread.run_sync(_need_whole, service.store, found.id, others)
    active = await service.ledger.read(queries.active)
    undone = [row.id for row in await service.ledger.read(history.undone_by, found.id)]
    restored = [row.id for row in await service.ledger.read(history.restored_by, found.id)]
    told = {
        "from": active.id,
        "to": found.id,
        "weights_sha256": found.weights_sha256,
        "undone": undone,
        "restored": restored,
        "dry_run": dry_run,
    }
    if now:
        told["night"] = None if night is None else night.id
    if not dry_run:
        if night is None:
            await service.ledger.write(history.roll_back, found.id, BY_HAND)
        else:
            await _end(service, night.id, found.id)
        await serve(service, found.id)
    return told


async def serve(service: Service, checkpoint_id: str) -> None:
    """Have what is served hold a checkpoint that the ledger has just been pointed at."""
    if service.processes.has_weights():
        await service.processes.ready.wait()  # a crew that is starting may have read the old pointer
        await service.trainer.rollback(checkpoint_id, settled=True)


async def _end(service: Service, night_id: str, target_id: str) -> None:
    """Point at the checkpoint and end the night, in one transaction; return when nothing of it goes on."""
    await service.ledger.write(
        partial(history.roll_back_now, settles=service.worker.running), target_id, BY_HAND
    )
    service.worker.wake()
    while (await service.ledger.read(queries.night, night_id)).state != "done":
        await service.worker.drop(
            night_id, BY_HAND
        )  # again until it has ended: a piece of work may just have been taken
        await anyio.sleep(LOOK_S)


def _target(connection: Any, wanted: str | None, night: Night | None) -> Checkpoint:
    """The checkpoint to go back to: the one that was named, else the kept one before the active.

    From the base there is none before it, but a night that is to be ended is something to go back from.
    """
    if wanted is None and night is not None and (active := queries.active(connection)).parent_id is None:
        return active
    if wanted is None:  # "" is a mistake, such as an empty variable in a script, and no checkpoint's id
        wanted = history.default_target(connection)
    found = queries.checkpoint(connection, wanted)
    queries.require_stored(connection, found)
    return found


def _need_whole(store: CheckpointStore, checkpoint_id: str, others: list[str]) -> None:
    """Refuse a damaged checkpoint, and name the first of the others that is whole."""
    if faults := store.verify([checkpoint_id]):
        good = next((other for other in others if not store.verify([other])), None)
        advice = f"the nearest good one is {good[:12]}" if good else "no other one is whole"
        raise IntegrityFault(f"{faults[0].path.name} {faults[0].problem}. Nothing was changed; {advice}")
