"""Garbage collection of checkpoint files and optimizer states that the ledger no longer needs.

Invariant: the ledger decides which files are kept, and only a ledger to which the files belong (see
`store.belonging`). A sweep moves files to the trash, where they stay for `checkpoints.trash_days`. A file
is removed only after the row that needed it was removed or marked. A damaged old checkpoint raises no error
here: it is logged, and `checkpoints verify` reports it.
"""

from functools import partial

import anyio.to_thread
import structlog

from corpus.errors import IntegrityFault, WriteFailed
from store import belonging, queries
from store.belonging import Problem
from store.checkpoints.store import CheckpointStore
from store.ledger.db import Ledger

log = structlog.get_logger()


async def problem(store: CheckpointStore, ledger: Ledger) -> Problem | None:
    """Return why the ledger and the files do not belong together, None if they do; log it."""
    found = await ledger.read(belonging.problem, store)
    if found is not None:
        log.warning("ledger and checkpoints do not fit", reason=found.text)
    return found


async def agree(store: CheckpointStore, ledger: Ledger) -> None:
    """Record the present state as the newest, both in the ledger and in the files that belong to it.

    Nothing is written if both record it already.
    """
    mark = await ledger.read(belonging.ledger_mark)
    if mark.active not in store.ids():  # the files may be those of another home, or be lost
        return
    before = belonging.owner_of(store)
    if await ledger.read(belonging.present_owner) == before:  # a start that changes nothing writes nothing
        return
    owner = await ledger.write(belonging.next_generation, before)
    try:
        await anyio.to_thread.run_sync(belonging.write_owner, store, owner)
    except WriteFailed as fault:  # a file that is behind its ledger does no harm
        log.warning("the checkpoints' owner was not written", reason=str(fault))


async def sweep(store: CheckpointStore, ledger: Ledger, trash_days: float) -> None:
    """Move the files that no checkpoint needs to the trash, and delete what is there for too long.

    Nothing is moved or deleted if the files belong to another ledger. Call this only while no checkpoint is
    being written.

    Args:
        store: The checkpoint files.
        ledger: The home's ledger.
        trash_days: Days that a file stays in the trash.
    """
    mark = await ledger.read(belonging.ledger_mark)
    if not mark.active or await problem(store, ledger) is not None:
        return
    try:
        await anyio.to_thread.run_sync(store.sweep, await ledger.read(queries.stored))
        await anyio.to_thread.run_sync(store.trash.empty, trash_days)
    except (IntegrityFault, WriteFailed) as fault:
        log.warning("no checkpoint file was swept", reason=str(fault))
    await agree(store, ledger)


async def remove_leftovers(store: CheckpointStore) -> None:
    """Remove unfinished files of a trainer that died; call this only while no checkpoint is being written."""
    try:
        await anyio.to_thread.run_sync(store.remove_leftovers)
    except WriteFailed as fault:
        log.warning("no unfinished file was removed", reason=str(fault))


async def drop_states(store: CheckpointStore, ledger: Ledger, states: int) -> None:
    """Delete the optimizer states of the checkpoints from which training cannot continue.

    Nothing is deleted if the files belong to another ledger.

    Args:
        store: The checkpoint files.
        ledger: The home's ledger.
        states: The number of newest kept checkpoints that keep their states: see `queries.going_on`.
    """
    if await problem(store, ledger) is not None:
        return
    kept = await ledger.read(queries.going_on, states)
    try:
        await anyio.to_thread.run_sync(
            partial(store.drop_states, await ledger.read(queries.stored), but=kept)
        )
    except (IntegrityFault, WriteFailed) as fault:
        log.warning("no optimizer state was dropped", reason=str(fault))
