"""Queries of checkpoints: which one is active, which are stored, and where a rollback may go.

Invariant: this module only reads. The last row of `pointers` names the active checkpoint.
This module opens no file: a checkpoint counts as stored until it is marked as pruned.
"""

from sqlalchemy import Connection, select

from corpus.errors import GateRefused, UnknownId
from store.ledger import schema
from store.ledger.records import Checkpoint
from store.ledger.rows import all_of, first_of


def active(connection: Connection) -> Checkpoint:
    """Return the active checkpoint, which the last row of `pointers` names."""
    p, c = schema.pointers, schema.checkpoints
    query = select(c).join(p, p.c.checkpoint_id == c.c.id).order_by(p.c.seq.desc()).limit(1)
    row = first_of(connection, Checkpoint, query)
    if row is None:
        raise UnknownId(
            "this home's ledger has no checkpoint: run `nightschool init` again, or `nightschool recover` if "
            "the ledger is lost"
        )
    return row


def checkpoint(connection: Connection, wanted: str) -> Checkpoint:
    """Return one checkpoint; raise UnknownId unless exactly one has this name.

    Args:
        connection: The ledger.
        wanted: The checkpoint's id, a prefix that no other id has, `active`, or `base` for checkpoint 0.
    """
    t = schema.checkpoints
    if wanted == "active":
        return active(connection)
    if wanted == "base":
        return checkpoints(connection)[0]
    rows = all_of(
        connection, Checkpoint, select(t).where(t.c.id.startswith(wanted, autoescape=True)).limit(2)
    )
    if len(rows) != 1 or not wanted:
        problem = "several checkpoints begin" if rows else "no checkpoint begins"
        raise UnknownId(f"{problem} with {wanted!r}; `nightschool checkpoints list` shows all")
    return rows[0]


def checkpoints(connection: Connection) -> list[Checkpoint]:
    """Return all checkpoints, oldest first."""
    return all_of(connection, Checkpoint, select(schema.checkpoints).order_by(schema.checkpoints.c.number))


def stored(connection: Connection) -> list[str]:
    """Return the ids of the checkpoints that were not pruned, oldest first."""
    return [row.id for row in checkpoints(connection) if row.pruned is None]


def kept(connection: Connection) -> list[Checkpoint]:
    """Return the kept checkpoints that were not pruned, oldest first; a rollback may go to each of them."""
    return [row for row in checkpoints(connection) if row.state == "kept" and row.pruned is None]


def require_stored(connection: Connection, row: Checkpoint) -> None:
    """Raise GateRefused if a checkpoint is pruned.

    The message names the nearest checkpoint to which a rollback may go.
    """
    if row.pruned is None:
        return
    now_active = active(connection).id
    others = [other for other in kept(connection) if other.id != now_active]
    advice = f"only the active one ({now_active[:12]}) is there"
    if others:
        nearest = min(others, key=lambda other: (abs(other.number - row.number), other.number))
        advice = f"beside the active one ({now_active[:12]}) the nearest that is there is {nearest.id[:12]}"
    raise GateRefused(
        f"checkpoint {row.id[:12]} was pruned at {row.pruned}: its weights are gone. "
        f"Nothing was changed; {advice}"
    )


def going_on(connection: Connection, states: int) -> list[str]:
    """Return the ids of the checkpoints from which training may continue, sorted.

    They are the active checkpoint, the newest kept checkpoints, and all candidates.

    Args:
        connection: The ledger.
        states: Number of the newest kept checkpoints to include.
    """
    rows = [row for row in checkpoints(connection) if row.pruned is None]
    newest = [row.id for row in rows if row.state == "kept"][-states:]
    candidates = [row.id for row in rows if row.state == "candidate"]
    return sorted({active(connection).id, *newest, *candidates})
