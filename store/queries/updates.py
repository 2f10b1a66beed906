"""Queries of updates: their pairs, verdicts and targets, and what the kept updates have taught.

Invariant: this module only reads. The last kept update decides what is learnt; replayed pairs do not count.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, select

from store.ledger import schema
from store.ledger.records import LostPairs, PairInUpdate, Update, Verdict
from store.ledger.rows import all_of, build, first_of
from store.queries.checkpoints import checkpoint


def update(connection: Connection, update_id: str | None) -> Update | None:
    """Return the update with this id; None if there is none."""
    return first_of(connection, Update, select(schema.updates).where(schema.updates.c.id == update_id))


def update_of(connection: Connection, night_id: str) -> Update | None:
    """Return the update of a night; None if the night has none."""
    return first_of(connection, Update, select(schema.updates).where(schema.updates.c.night_id == night_id))


def weights_around(connection: Connection, update: Update) -> tuple[str, str]:
    """Return the digests of the weights before and after an update; "" for a side without a checkpoint."""
    before, after = (
        checkpoint(connection, checkpoint_id).weights_sha256 if checkpoint_id else ""
        for checkpoint_id in (update.parent_id, update.checkpoint_id)
    )
    return before, after


def last_trained(connection: Connection) -> Update | None:
    """Return the newest kept update that is not a merge; None if there is none."""
    t = schema.updates
    trained = select(t).where((t.c.state == "kept") & (t.c.objective != "merge"))
    return first_of(connection, Update, trained.order_by(t.c.at.desc(), t.c.id.desc()).limit(1))


def pairs_of(connection: Connection, update_id: str) -> list[PairInUpdate]:
    """Return the pairs of an update, sorted by id."""
    p, u = schema.pairs, schema.update_pairs
    query = select(p, u.c.replay, u.c.unlearnt).join(u, u.c.pair_id == p.c.id)
    return all_of(connection, PairInUpdate, query.where(u.c.update_id == update_id).order_by(p.c.id))


def lost_by(connection: Connection, update_id: str) -> list[LostPairs]:
    """Return the pairs that an update has lost to `forget`, in one record for each `forget`."""
    e = schema.events
    bodies = select(e.c.body).where((e.c.kind == "forget") & (e.c.subject == update_id)).order_by(e.c.seq)
    return [build(LostPairs, body) for body in connection.execute(bodies).scalars()]


def verdict(connection: Connection, update_id: str) -> Verdict | None:
    """Return the verdict on an update; None if it has none."""
    t = schema.verdicts
    return first_of(connection, Verdict, select(t).where(t.c.update_id == update_id))


def targets(connection: Connection) -> dict[str, list[str]]:
    """Return the behaviours that the night of each update was to improve, by the update's id."""
    n, u = schema.nights, schema.updates
    return {
        update_id: list(names) for update_id, names in connection.execute(select(u.c.id, n.c.targets).join(n))
    }


# ---------------------------------------------------------------- what is learnt


def learnt_pairs(connection: Connection, pair_ids: Sequence[str]) -> dict[str, bool]:
    """Return which of these pairs kept updates had as new pairs: {pair id: unlearnt}.

    The value is True if the last such update unlearnt the pair, False if it taught the pair.
    """
    m, u, c = schema.update_pairs, schema.updates, schema.checkpoints
    query = (
        select(m.c.pair_id, m.c.unlearnt)
        .join(u, u.c.id == m.c.update_id)
        .join(c, c.c.id == u.c.checkpoint_id)
        .where((u.c.state == "kept") & m.c.replay.is_(False) & m.c.pair_id.in_(pair_ids))
        .order_by(c.c.number)
    )
    return {pair_id: bool(unlearnt) for pair_id, unlearnt in connection.execute(query)}


def learnt_behaviours(connection: Connection) -> set[str]:
    """Return the behaviours that a kept update was to improve and no later kept update was to unlearn."""
    u, c = schema.updates, schema.checkpoints
    query = select(u).join(c, c.c.id == u.c.checkpoint_id).where(u.c.state == "kept").order_by(c.c.number)
    meant = targets(connection)
    learnt: set[str] = set()
    for row in all_of(connection, Update, query):
        learnt = learnt.difference(unlearnt_by(row)).union(meant[row.id])
    return learnt


def unlearnt_by(update: Update) -> list[str]:
    """Return the behaviours that an update is to unlearn: a merge's settings name them; [] for others."""
    return list(update.settings.get("unlearn", ())) if update.objective == "merge" else []
