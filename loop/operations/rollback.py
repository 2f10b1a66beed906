"""A rollback: which checkpoint is pointed at, what is refused, and how a night that is in the way ends.

Invariant: nothing changes before the checkpoint's files were found whole. The pointer moves in one transaction; the
served weights follow it.
"""

from functools import partial

import anyio
import anyio.to_thread
from sqlalchemy import Connection

from corpus.errors import IntegrityFault
from loop.engine.service import Service
from loop.operations.results.checkpoints import ImmediateRollback, Rollback
from store import queries
from store.checkpoints.store import CheckpointStore
from store.ledger.records import Checkpoint, Night
from store.nights import history

BY_HAND = "rolled back by hand"
"""Why the pointer was moved, and why a night was ended with it."""
POLL_S = 0.05
"""Between two looks at whether a night has ended."""


async def roll_back(
    service: Service, *, target: str | None, dry_run: bool, now: bool
) -> Rollback | ImmediateRollback:
    """Point at an earlier kept checkpoint and serve it; with `now`, first end a night that runs."""
    night = await service.ledger.read(queries.running_night) if now else None
    checkpoint = await service.ledger.read(_target, target, night)
    others = await service.ledger.read(history.nearest, checkpoint.id)
    await anyio.to_thread.run_sync(_require_whole, service.store, checkpoint.id, others)
    rollback = await service.ledger.read(_rollback, checkpoint, dry_run)
    if not dry_run:
        if night is None:
            await service.ledger.write(history.roll_back, checkpoint.id, BY_HAND)
        else:
            await _end(service, night.id, checkpoint.id)
        await serve(service, checkpoint.id)
    if not now:
        return rollback
    return ImmediateRollback(**vars(rollback), night=None if night is None else night.id)


async def serve(service: Service, checkpoint_id: str) -> None:
    """Have the served weights be those of a checkpoint that the ledger was just pointed at."""
    if service.processes.has_weights():
        await service.processes.ready.wait()  # processes that are starting may have read the old pointer
        await service.trainer.rollback(checkpoint_id, settled=True)


def _rollback(connection: Connection, checkpoint: Checkpoint, dry_run: bool) -> Rollback:
    """Report what a rollback to this checkpoint changes."""
    return Rollback(
        from_=queries.active(connection).id,
        to=checkpoint.id,
        weights_sha256=checkpoint.weights_sha256,
        undone=[update.id for update in history.undone_by(connection, checkpoint.id)],
        restored=[update.id for update in history.restored_by(connection, checkpoint.id)],
        dry_run=dry_run,
    )


async def _end(service: Service, night_id: str, target_id: str) -> None:
    """Point at the checkpoint and end the night, in one transaction; return when none of its work goes on."""
    await service.ledger.write(
        partial(history.roll_back_now, settles=service.worker.running), target_id, BY_HAND
    )
    service.worker.wake()
    while (await service.ledger.read(queries.night, night_id)).state != "done":
        # Again until the night has ended: a piece of its work may just have been taken.
        await service.worker.drop(night_id, BY_HAND)
        await anyio.sleep(POLL_S)


def _target(connection: Connection, wanted: str | None, night: Night | None) -> Checkpoint:
    """Return the checkpoint to go back to: the named one, else the kept one before the active.

    No checkpoint comes before the base; but from a night that is to be ended, the way back leads to the base itself.
    """
    if wanted is None and night is not None and (active := queries.active(connection)).parent_id is None:
        return active
    if wanted is None:  # "" names no checkpoint: it is a mistake, such as an empty variable in a script
        wanted = history.default_target(connection)
    checkpoint = queries.checkpoint(connection, wanted)
    queries.require_stored(connection, checkpoint)
    return checkpoint


def _require_whole(store: CheckpointStore, checkpoint_id: str, others: list[str]) -> None:
    """Refuse a damaged checkpoint, and name the first of the others that is whole."""
    if faults := store.verify([checkpoint_id]):
        good = next((other for other in others if not store.verify([other])), None)
        advice = f"the nearest good one is {good[:12]}" if good else "no other one is whole"
        raise IntegrityFault(f"{faults[0].path.name} {faults[0].problem}. Nothing was changed; {advice}")
