"""Checkpoints of a lost ledger, from the manifests of their files: rows, lineage, and the active one.

Invariant: only `enter` touches the ledger; the rest is pure. Only the file `owner` (see `store.belonging`)
says which checkpoints verdicts kept and which one was active. Without it only a checkpoint from which another
was trained certainly was kept, so the newest of those becomes the active one: weights that a verdict may have
refused are never served.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from corpus.errors import GateRefused, UnknownId
from store import queries
from store.belonging import Owner
from store.ledger import meta
from store.ledger.db import now
from store.ledger.records import Checkpoint, save
from store.nights.history import point

RECOVERED = "recovered from the manifests"
"""The reason that the ledger records for the pointer."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A checkpoint whose manifest is on the disk."""

    id: str
    parent: str | None
    weights_sha256: str
    written: float
    """When the manifest was written, in seconds since 1970; it orders siblings."""
    intact: bool
    """Whether manifest and weights are what their digests say."""


def lineage(found: Sequence[Found], known: Set[str], first: int, at: str) -> list[Checkpoint]:
    """Return a row for each checkpoint that the ledger does not know, parents before children.

    A parent that is on no disk gets a row too, as a pruned one, so that the lineage has no gap.

    Args:
        found: The checkpoints on the disk.
        known: Ids of the checkpoints in the ledger.
        first: Number of the first new row.
        at: The present time, as rows store it.
    """
    by_id = {one.id: one for one in found}
    missing = {one.parent for one in found if one.parent} - by_id.keys() - known
    rows = [
        replace(_row(Found(id=name, parent=None, weights_sha256="", written=0, intact=False), at), pruned=at)
        for name in sorted(missing)
    ]
    in_order = sorted(found, key=lambda one: (_depth(one, by_id), one.written, one.id))
    rows += [_row(one, at) for one in in_order if one.id not in known]
    return [replace(row, number=first + offset) for offset, row in enumerate(rows)]


def _row(one: Found, at: str) -> Checkpoint:
    """Return the row of a checkpoint, without its number and its state."""
    return Checkpoint(
        id=one.id,
        parent_id=one.parent,
        number=0,
        weights_sha256=one.weights_sha256,
        update_id=None,
        state="undone",
        at=at,
    )


def choose_active(found: Sequence[Found], owner: Owner | None) -> str:
    """Return the id of the checkpoint that is to be active.

    Args:
        found: The checkpoints on the disk.
        owner: The mark of the files; None if it is lost.

    Raises:
        GateRefused: No checkpoint that may be served is intact.
    """
    by_id = {one.id: one for one in found}
    if owner is not None:
        line = _line(owner.active, by_id)
        others = [name for name in reversed(owner.kept) if name in by_id]
        wanted = [*line, *others]
    else:
        parents = {by_id[one.parent] for one in found if one.parent is not None and one.parent in by_id}
        roots = {one for one in found if one.parent is None}
        newest = sorted(parents | roots, key=lambda one: (_depth(one, by_id), one.written, one.id))
        wanted = [one.id for one in reversed(newest)]
    for name in wanted:
        if by_id[name].intact:
            return name
    raise GateRefused("no checkpoint that a verdict kept is intact: restore `checkpoints/` from a backup")


def enter(
    connection: Connection, found: Sequence[Found], owner: Owner | None, wanted: str, model_digest: str
) -> list[Checkpoint]:
    """Add the checkpoints on the disk to the ledger, point at the active one, and return the new rows.

    Args:
        connection: The ledger, in a transaction that writes.
        found: The checkpoints on the disk.
        owner: The mark of the files; None if it is lost.
        wanted: Id of the checkpoint that is to be active, or a prefix of it; "" for `choose_active`.
        model_digest: Digest of the home's model, for a ledger that has none.
    """
    known = queries.checkpoints(connection)
    active = _named(found, wanted) if wanted else choose_active(found, owner)
    if not known:
        meta.put(connection, "model", model_digest)
    first = max((row.number for row in known), default=-1) + 1
    rows = lineage(found, {row.id for row in known}, first, now())
    kept = {*(owner.kept if owner else ()), *_line(active, {one.id: one for one in found})}
    rows = [replace(row, state="kept") if row.id in kept else row for row in rows]
    save(connection, rows)
    if not known or queries.active(connection).id != active:
        point(connection, active, RECOVERED)
    return rows


def _named(found: Sequence[Found], wanted: str) -> str:
    """Return the id of the only checkpoint on the disk whose id begins like this; it must be intact."""
    these = [one for one in found if one.id.startswith(wanted)]
    if len(these) != 1:
        raise UnknownId(f"{len(these)} checkpoints on the disk begin with {wanted!r}: give more of the id")
    if not these[0].intact:
        raise GateRefused(
            f"checkpoint {these[0].id[:12]} is damaged, and nothing was changed: name another one"
        )
    return these[0].id


def _line(name: str | None, by_id: Mapping[str, Found]) -> list[str]:
    """Return the id and its ancestors, newest first, as far as their manifests are there."""
    line: list[str] = []
    while name is not None and name in by_id:
        line.append(name)
        name = by_id[name].parent
    return line


def _depth(one: Found, by_id: Mapping[str, Found]) -> int:
    return len(_line(one.id, by_id))
