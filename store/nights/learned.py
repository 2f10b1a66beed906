"""What the updates that are kept have taught, and what merges among them have taken back.

Invariant: reads only; a later update has the last word. Replay teaches nothing anew.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, select

from store import queries
from store.ledger import schema
from store.ledger.records import Update
from store.ledger.rows import all_of


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


def unlearnt(update: Update) -> list[str]:
    """Behaviours that an update is meant to take back: those that a merge's settings name."""
    return list(update.settings.get("unlearn", ())) if update.objective == "merge" else []


def behaviours(connection: Connection) -> set[str]:
    """Behaviours that a kept update meant to improve, and no later one to unlearn."""
    u, c = schema.updates, schema.checkpoints
    query = select(u).join(c, c.c.id == u.c.checkpoint_id).where(u.c.state == "kept").order_by(c.c.number)
    targets = queries.targets(connection)
    taught: set[str] = set()
    for update in all_of(connection, Update, query):
        taught = taught.difference(unlearnt(update)).union(targets[update.id])
    return taught
