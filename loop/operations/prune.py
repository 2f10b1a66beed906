"""`checkpoints prune`: the files of checkpoints that no rule keeps are given up, their rows are not.

Invariant: one transaction marks them pruned, and only then their files go: a crash in between leaves files that
no unpruned row names, which the next start sweeps. Nothing goes while a night runs, or when what would remain
cannot be told. Which ones stay is `store/checkpoints/retention.py`'s to say.
"""

from functools import partial
from pathlib import Path

import anyio.to_thread
from sqlalchemy import Connection

from corpus.aliases import Json
from corpus.errors import GateRefused, IntegrityFault
from loop.engine.service import Service
from loop.night import gc
from store import queries
from store.checkpoints.retention import Policy, reasons
from store.checkpoints.store import CheckpointStore
from store.ledger.records import Checkpoint
from store.nights import history


async def prune(service: Service, policy: Policy, *, dry_run: bool) -> Json:
    """Prune by this policy; returns what went, what stays and why, and the bytes that were (or would be) freed."""
    async with service.files:
        store, ledger = service.store, service.ledger
        good = await anyio.to_thread.run_sync(_good, store, await ledger.read(queries.kept))
        rows = await ledger.read(queries.checkpoints)
        stay = await ledger.read(partial(_reasons, policy=policy, good=good))
        freed = _freed(store, stay)
        if not dry_run:
            stay = await ledger.write(partial(_mark, policy=policy, good=good))
            await gc.sweep(store, ledger)
    return _told(rows, stay, await ledger.read(queries.active), dry_run=dry_run, freed=freed)


def _good(store: CheckpointStore, kept: list[Checkpoint]) -> str | None:
    """The last of these checkpoints whose files are whole."""
    return next((row.id for row in reversed(kept) if not store.verify([row.id])), None)


def _reasons(connection: Connection, *, policy: Policy, good: str | None) -> dict[str, list[str]]:
    """Why each checkpoint stays."""
    active = queries.active(connection).id
    return reasons(queries.checkpoints(connection), policy, active=active, good=good)


def _mark(connection: Connection, *, policy: Policy, good: str | None) -> dict[str, list[str]]:
    """Mark as pruned what does not stay; returns why each stays, as it is in this transaction."""
    if queries.running_night(connection) is not None:
        raise GateRefused("a night is running: wait for it (`nightschool status`), then prune")
    stay = _reasons(connection, policy=policy, good=good)
    if gone := [name for name, why in stay.items() if not why]:
        history.set_pruned(connection, gone, policy.rules)
    return stay


def _freed(store: CheckpointStore, stay: dict[str, list[str]]) -> int:
    """Bytes of the files that only those need that do not stay: a base stays with what starts from it.

    A damaged manifest of one that stays raises: without it nobody knows which files it needs.
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


def _told(
    rows: list[Checkpoint], stay: dict[str, list[str]], active: Checkpoint, *, dry_run: bool, freed: int
) -> Json:
    """What is told of a prune."""

    def named(row: Checkpoint) -> Json:
        return {key: getattr(row, key) for key in ("id", "number", "state", "at")}

    there = [row for row in rows if row.id in stay]
    kept = [{**named(row), "reasons": stay[row.id]} for row in there if stay[row.id]]
    return {
        "dry_run": dry_run,
        "pruned": [named(row) for row in there if not stay[row.id]],
        "kept": kept,
        "reachable": [row["id"] for row in kept if row["state"] == "kept" and row["id"] != active.id],
        "freed_bytes": freed,
    }
