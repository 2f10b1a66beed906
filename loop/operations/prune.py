"""`checkpoints prune`: delete the files of checkpoints that no rule keeps; their rows stay.

Invariant: one transaction marks them pruned, and only then their files go. A crash in between leaves files that no
unpruned row names, which the next start sweeps. Nothing goes while a night runs, or when the files that the others
need are not known. `store/checkpoints/retention.py` decides which checkpoints stay.
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


async def prune(service: Service, policy: Policy, *, dry_run: bool) -> Prune:
    """Prune by this policy; report what went, what stays and why, and the bytes that were (or would be) freed."""
    async with service.files:
        store, ledger = service.store, service.ledger
        good = await anyio.to_thread.run_sync(_last_good, store, await ledger.read(queries.kept))
        rows = await ledger.read(queries.checkpoints)
        stay = await ledger.read(partial(_reasons, policy=policy, good=good))
        freed = _freed(store, stay)
        if not dry_run:
            stay = await ledger.write(partial(_mark, policy=policy, good=good))
            await gc.sweep(store, ledger)
    return _report(rows, stay, await ledger.read(queries.active), dry_run=dry_run, freed=freed)


def _last_good(store: CheckpointStore, kept: list[Checkpoint]) -> str | None:
    """Return the last of these checkpoints whose files are whole."""
    return next((row.id for row in reversed(kept) if not store.verify([row.id])), None)


def _reasons(connection: Connection, *, policy: Policy, good: str | None) -> dict[str, list[str]]:
    """Return why each checkpoint stays."""
    active = queries.active(connection).id
    return reasons(queries.checkpoints(connection), policy, active=active, good=good)


def _mark(connection: Connection, *, policy: Policy, good: str | None) -> dict[str, list[str]]:
    """Mark as pruned what does not stay; return why each stays, as of this transaction."""
    if queries.running_night(connection) is not None:
        raise GateRefused("a night is running: wait for it (`nightschool status`), then prune")
    stay = _reasons(connection, policy=policy, good=good)
    if gone := [name for name, why in stay.items() if not why]:
        history.set_pruned(connection, gone, policy.rules)
    return stay


def _freed(store: CheckpointStore, stay: dict[str, list[str]]) -> int:
    """Add up the files that only pruned checkpoints need: a base stays with what starts from it.

    Raises:
        IntegrityFault: The manifest of one that stays is damaged, so nobody knows which files it needs.
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
    rows: list[Checkpoint], stay: dict[str, list[str]], active: Checkpoint, *, dry_run: bool, freed: int
) -> Prune:
    """Put the report of a prune together."""
    there = [row for row in rows if row.id in stay]
    kept = [
        RetainedCheckpoint(id=row.id, number=row.number, state=row.state, at=row.at, reasons=stay[row.id])
        for row in there
        if stay[row.id]
    ]
    pruned = [
        PrunedCheckpoint(id=row.id, number=row.number, state=row.state, at=row.at)
        for row in there
        if not stay[row.id]
    ]
    reachable = [row.id for row in kept if row.state == "kept" and row.id != active.id]
    return Prune(dry_run=dry_run, pruned=pruned, kept=kept, reachable=reachable, freed_bytes=freed)
