"""Garbage collection of checkpoint files and optimizer states that the ledger no longer needs.

Invariant: the ledger decides which files are kept. A file is removed only after the row that needed it was
removed or marked. A damaged old checkpoint raises no error here: it is logged, and `checkpoints verify`
reports it.
"""

from functools import partial

import anyio.to_thread
import structlog

from corpus.errors import IntegrityFault, WriteFailed
from store import queries
from store.checkpoints.store import CheckpointStore
from store.ledger.db import Ledger

log = structlog.get_logger()


async def sweep(store: CheckpointStore, ledger: Ledger) -> None:
    """Remove the files that no checkpoint needs; call this only while no checkpoint is being written."""
    try:
        await anyio.to_thread.run_sync(store.sweep, await ledger.read(queries.stored))
    except IntegrityFault as fault:
        log.warning("no checkpoint file was swept", reason=str(fault))


async def remove_leftovers(store: CheckpointStore) -> None:
    """Remove unfinished files of a trainer that died; call this only while no checkpoint is being written."""
    try:
        await anyio.to_thread.run_sync(store.remove_leftovers)
    except WriteFailed as fault:
        log.warning("no unfinished file was removed", reason=str(fault))


async def drop_states(store: CheckpointStore, ledger: Ledger, states: int) -> None:
    """Delete the optimizer states of the checkpoints from which training cannot continue.

    Args:
        store: The checkpoint files.
        ledger: The home's ledger.
        states: The number of newest kept checkpoints that keep their states: see `queries.going_on`.
    """
    kept = await ledger.read(queries.going_on, states)
    try:
        await anyio.to_thread.run_sync(
            partial(store.drop_states, await ledger.read(queries.stored), but=kept)
        )
    except (IntegrityFault, WriteFailed) as fault:
        log.warning("no optimizer state was dropped", reason=str(fault))
