"""What is kept of earlier nights on the disk, and what goes.

Invariant: the ledger says what is kept; a file goes only after the row that needed it. Damage of what is old keeps
nothing from working: it is logged, and `checkpoints verify` tells of it.
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
    """Remove the files that no checkpoint needs; only while nobody writes."""
    try:
        await anyio.to_thread.run_sync(store.sweep, await ledger.read(queries.stored))
    except IntegrityFault as fault:
        log.warning("nothing was swept", reason=str(fault))


async def give_up_states(store: CheckpointStore, ledger: Ledger, states: int) -> None:
    """Keep the optimizer's state only where training may go on: see `queries.going_on`."""
    kept = await ledger.read(queries.going_on, states)
    try:
        await anyio.to_thread.run_sync(
            partial(store.drop_states, await ledger.read(queries.stored), but=kept)
        )
    except (IntegrityFault, WriteFailed) as fault:
        log.warning("no optimizer state was given up", reason=str(fault))
