"""`checkpoints prune`: move the files of checkpoints that no rule keeps to the trash; their rows stay.

Invariant: one transaction marks the checkpoints as pruned. Their files are moved after it. A crash between
the two leaves unneeded files, which the next start moves. Nothing is moved while a night runs, if a damaged
manifest leaves it unknown which files are needed, or if the files belong to another ledger.
`store/checkpoints/retention.py` decides which checkpoints stay.
"""

from functools import partial
from pathlib import Path

import anyio.to_thread
from sqlalchemy import Connection

from corpus.errors import GateRefused, IntegrityFault
from loop.engine.service import Service
from loop.night import gc
from loop.operations.results.checkpoints import Prune, PrunedCheckpoint, RetainedCheckpoint
from store import queries
from store.checkpoints.retention import Policy, reasons
from store.checkpoints.store import CheckpointStore
from store.ledger.records import Checkpoint
from store.nights import history


async def prune(service: Service, policy: Policy | None, *, dry_run: bool, empty_trash: bool) -> Prune:
    """Prune by a policy; return what goes, what stays and why, and how many bytes that is.

    Args:
        service: The opened service.
        policy: The rules of the user; None to prune nothing.
        dry_run: Whether to change nothing.
        empty_trash: Whether to delete all that is in the trash afterwards.

    Raises:
        GateRefused: A night is running, or the files belong to another ledger.
    """
    async with service.files:
        store, ledger = service.store, service.ledger
        if (found := await gc.problem(store, ledger)) is not None:
            raise GateRefused(found.text)
        good = await anyio.to_thread.run_sync(_last_good, store, await ledger.read(queries.kept))
        rows = await ledger.read(queries.checkpoints)
        stay = await ledger.read(partial(_reasons, policy=policy, good=good))
        freed = _freed(store, stay)
        trash_days = 0.0 if empty_trash else service.settings.checkpoints.trash_days
        if not dry_run:
            stay = await ledger.write(partial(_mark, policy=policy, good=good))
            await gc.sweep(store, ledger, trash_days)
    active = await ledger.read(queries.active)
    return _report(rows, stay, active, dry_run=dry_run, freed=freed, trash=store.trash.nbytes)


def _last_good(store: CheckpointStore, kept: list[Checkpoint]) -> str | None:
    """Return the id of the newest of these checkpoints whose files are intact; None if there is none."""
    return next((row.id for row in reversed(kept) if not store.verify([row.id])), None)


def _reasons(connection: Connection, *, policy: Policy | None, good: str | None) -> dict[str, list[str]]:
    """Return the reasons why each stored checkpoint stays, by id; a checkpoint without one may be pruned.

    Args:
        connection: The ledger.
        policy: The rules of the user; None if every checkpoint stays.
        good: Id of the last good checkpoint; None if there is none.
    """
    active = queries.active(connection).id
    if policy is None:
        return {name: ["not asked for"] for name in queries.stored(connection)}
    return reasons(queries.checkpoints(connection), policy, active=active, good=good)


def _mark(connection: Connection, *, policy: Policy | None, good: str | None) -> dict[str, list[str]]:
    """Mark the checkpoints that do not stay as pruned; return the reasons that `_reasons` gives."""
    if queries.running_night(connection) is not None:
        raise GateRefused("a night is running: wait for its end (`nightschool status`), then prune")
    stay = _reasons(connection, policy=policy, good=good)
    unneeded = [name for name, why in stay.items() if not why]
    if policy is not None and unneeded:
        history.set_pruned(connection, unneeded, policy.rules)
    return stay


def _freed(store: CheckpointStore, stay: dict[str, list[str]]) -> int:
    """Return the number of bytes in files that only the pruned checkpoints need.

    Files of a pruned checkpoint stay if another checkpoint is stored as a difference from it.

    Args:
        store: The checkpoint files.
        stay: The reasons why each checkpoint stays, by id.

    Raises:
        IntegrityFault: The manifest of a checkpoint that stays is damaged, so the files that it needs are
            unknown.
    """
    needed: dict[bool, set[Path]] = {True: set(), False: set()}
    for checkpoint_id, why in stay.items():
        try:
            manifest = store.manifest(checkpoint_id)
        except IntegrityFault:
            if why:
                raise
            continue
        needed[bool(why)] |= store.blobs.needed(manifest.blobs)
    return sum(path.stat().st_size for path in needed[False] - needed[True] if path.exists())


def _report(
    rows: list[Checkpoint],
    stay: dict[str, list[str]],
    active: Checkpoint,
    *,
    dry_run: bool,
    freed: int,
    trash: int,
) -> Prune:
    """Return the report of a prune."""
    stored = [row for row in rows if row.id in stay]
    kept = [
        RetainedCheckpoint(id=row.id, number=row.number, state=row.state, at=row.at, reasons=stay[row.id])
        for row in stored
        if stay[row.id]
    ]
    pruned = [
        PrunedCheckpoint(id=row.id, number=row.number, state=row.state, at=row.at)
        for row in stored
        if not stay[row.id]
    ]
    reachable = [row.id for row in kept if row.state == "kept" and row.id != active.id]
    return Prune(
        dry_run=dry_run, pruned=pruned, kept=kept, reachable=reachable, freed_bytes=freed, trash_bytes=trash
    )
