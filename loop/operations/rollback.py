"""`rollback`: make an earlier checkpoint the active one and serve it; on request, end a running night first.

Invariant: nothing changes before the checkpoint's files are verified. One transaction makes the checkpoint
active, and the served weights are changed after it.
"""

from functools import partial

import anyio
import anyio.to_thread
from sqlalchemy import Connection

from corpus.errors import IntegrityFault
from loop.engine.service import Service
from loop.night import gc
from loop.operations.results.checkpoints import ImmediateRollback, Rollback
from store import queries
from store.checkpoints.store import CheckpointStore
from store.ledger.records import Checkpoint, Night
from store.nights import history

BY_HAND = "rolled back by hand"
"""The reason that the ledger records for a rollback by a user, and for the end of a night that it ended."""
POLL_S = 0.05
"""Seconds between two checks of whether a night has ended."""


async def roll_back(
    service: Service, *, target: str | None, dry_run: bool, now: bool
) -> Rollback | ImmediateRollback:
    """Make an earlier kept checkpoint active, serve it, and return what that changed.

    Args:
        service: The opened service.
        target: The checkpoint; None for the kept one before the active one.
        dry_run: Whether to report the changes and make none.
        now: Whether to end a running night first.
    """
    night = await service.ledger.read(queries.running_night) if now else None
    checkpoint = await service.ledger.read(_target, target, night)
    others = await service.ledger.read(history.nearest, checkpoint.id)
    await anyio.to_thread.run_sync(_require_intact, service.store, checkpoint.id, others)
    rollback = await service.ledger.read(_rollback, checkpoint, dry_run)
    if not dry_run:
        if night is None:
            await service.ledger.write(history.roll_back, checkpoint.id, BY_HAND)
        else:
            await _end(service, night.id, checkpoint.id)
        await gc.agree(service.store, service.ledger)
        await serve(service, checkpoint.id)
    if not now:
        return rollback
    return ImmediateRollback(**vars(rollback), night=None if night is None else night.id)


async def serve(service: Service, checkpoint_id: str) -> None:
    """Write a checkpoint that has just become active to the shared weights, if there are any."""
    if service.processes.has_weights():
        await service.processes.ready.wait()  # starting processes may load the previous checkpoint
        await service.trainer.rollback(checkpoint_id, settled=True)


def _rollback(connection: Connection, checkpoint: Checkpoint, dry_run: bool) -> Rollback:
    """Return the report of what a rollback to a checkpoint changes."""
    return Rollback(
        from_=queries.active(connection).id,
        to=checkpoint.id,
        weights_sha256=checkpoint.weights_sha256,
        undone=[update.id for update in history.undone_by(connection, checkpoint.id)],
        restored=[update.id for update in history.restored_by(connection, checkpoint.id)],
        dry_run=dry_run,
    )


async def _end(service: Service, night_id: str, target_id: str) -> None:
    """Make a checkpoint active and end the night in one transaction; then wait for its work to stop."""
    await service.ledger.write(
        partial(history.roll_back_now, settles=service.worker.running), target_id, BY_HAND
    )
    service.worker.wake()
    while (await service.ledger.read(queries.night, night_id)).state != "done":
        # Repeat until the night has ended, because the worker may just have taken a piece of its work.
        await service.worker.drop(night_id, BY_HAND)
        await anyio.sleep(POLL_S)


def _target(connection: Connection, wanted: str | None, night: Night | None) -> Checkpoint:
    """Return the target of a rollback: the wanted checkpoint, or the kept one before the active one.

    Nothing comes before the base. If the base is active, a rollback that ends a night stays at the base.

    Args:
        connection: The ledger.
        wanted: The checkpoint, as the user names it; None for the default.
        night: The running night that the rollback ends; None if it ends none.
    """
    if wanted is None and night is not None and (active := queries.active(connection)).parent_id is None:
        return active
    if wanted is None:  # "" is a mistake, such as an empty variable in a script, and not the default
        wanted = history.default_target(connection)
    checkpoint = queries.checkpoint(connection, wanted)
    queries.require_stored(connection, checkpoint)
    return checkpoint


def _require_intact(store: CheckpointStore, checkpoint_id: str, others: list[str]) -> None:
    """Raise an error if a checkpoint is damaged; the message names the first intact one of the others."""
    if faults := store.verify([checkpoint_id]):
        good = next((other for other in others if not store.verify([other])), None)
        advice = f"the nearest good one is {good[:12]}" if good else "no other one is intact"
        raise IntegrityFault(f"{faults[0].path.name} {faults[0].problem}. Nothing was changed; {advice}")
