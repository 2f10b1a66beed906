"""What the updates that are kept have taught, and what merges among them have taken back.

Invariant: reads only; a later update has the last word. Replay teaches nothing anew.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select

from store.ledger import schema


def kept_pairs(connection: Connection, pair_ids: Sequence[str]) -> dict[str, bool]:
    """Those of these pairs that a kept update learnt or unlearnt, replay aside: whether the last one unlearnt it."""
    m, u, c = schema.update_pairs, schema.updates, schema.checkpoints
    query = (
        select(m.c.pair_id, m.c.unlearnt)
        .join(u, u.c.id == m.c.update_id)
        .join(c, c.c.id == u.c.checkpoint_id)
    )
    own = (u.c.state == "kept") & (m.c.replay == False) & m.c.pair_id.in_(pair_ids)  # noqa: E712  (SQL, not Python)
    query = query.where(own).order_by(c.c.number)
    return {pair_id: bool(away) for pair_id, away in connection.execute(query)}


def unlearnt(update: Mapping[str, Any]) -> list[str]:
    """Behaviours that an update is meant to take back: those that a merge's settings name."""
    return list(update["settings"].get("unlearn", ())) if update["objective"] == "merge" else []


def behaviours(connection: Connection) -> set[str]:
    """Behaviours that a kept update meant to improve, and no later one to unlearn."""
    n, u, c = schema.nights, schema.updates, schema.checkpoints
    query = select(u, n.c.targets).join(n, n.c.id == u.c.night_id).join(c, c.c.id == u.c.checkpoint_id)
    found: set[str] = set()
    for row in connection.execute(query.where(u.c.state == "kept").order_by(c.c.number)).mappings():
        found = found.difference(unlearnt(dict(row))).union(row["targets"])
    return found
