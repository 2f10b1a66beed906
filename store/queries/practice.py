"""Queries of practice: failure rates, dreams, attempts and pairs.

Invariant: this module only reads. Rows are sorted by id unless a function says otherwise.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, Integer, func, select

from store.ledger import schema
from store.ledger.placement_trial import PlacementTrial
from store.ledger.records import Attempt, Dream, DreamCount, HardDream, Pair, Rate
from store.ledger.rows import all_of, first_of
from store.queries.nights import model_digest


def rates(connection: Connection) -> dict[str, Rate]:
    """Return the counts of failures and passes, by behaviour."""
    return {rate.behaviour: rate for rate in all_of(connection, Rate, select(schema.failure_rates))}


def dreams(connection: Connection, night_id: str, names: Sequence[str]) -> list[Dream]:
    """Return the dreams of one night for these behaviours, without refused dreams."""
    t = schema.dreams
    in_use = (t.c.night_id == night_id) & t.c.behaviour.in_(names) & t.c.refused.is_(None)
    return all_of(connection, Dream, select(t).where(in_use).order_by(t.c.id))


def dreamt_texts(connection: Connection) -> list[str]:
    """Return the last message of every dream of all nights, without refused dreams."""
    t = schema.dreams
    rows = connection.execute(select(t.c.messages).where(t.c.refused.is_(None)).order_by(t.c.id))
    return [messages[-1]["content"] for (messages,) in rows]


def dream_counts(connection: Connection, night_id: str | None = None) -> list[DreamCount]:
    """Return how many dreams there are of each behaviour, form and reason of refusal, by night.

    Args:
        connection: The ledger.
        night_id: The only night that counts; None for all nights.
    """
    d, n = schema.dreams, schema.nights
    query = (
        select(n.c.number.label("night"), d.c.behaviour, d.c.form, d.c.refused, func.count().label("count"))
        .join(n, n.c.id == d.c.night_id)
        .where(d.c.form != "")
        .group_by(n.c.number, d.c.behaviour, d.c.form, d.c.refused)
        .order_by(n.c.number, d.c.behaviour, d.c.form, d.c.refused)
    )
    return all_of(connection, DreamCount, query if night_id is None else query.where(n.c.id == night_id))


def hardest_dreams(connection: Connection, behaviour: str, limit: int) -> list[HardDream]:
    """Return the dreams of a behaviour whose attempts failed most often, the hardest first.

    Attempts with the behaviour's instruction do not count.

    Args:
        connection: The ledger.
        behaviour: The behaviour.
        limit: Most dreams to return.
    """
    d, a = schema.dreams, schema.attempts
    failed = func.avg(1.0 * a.c.passed.is_(False).cast(Integer))
    query = (
        select(d, failed.label("failed"))
        .join(a, a.c.dream_id == d.c.id)
        .where((d.c.behaviour == behaviour) & a.c.instructed.is_(False))
        .group_by(d.c.id)
        .order_by(failed.desc(), d.c.id)
        .limit(limit)
    )
    return all_of(connection, HardDream, query)


def attempts(connection: Connection, dream_ids: Sequence[str]) -> dict[str, list[Attempt]]:
    """Return the attempts at each of these dreams, by the dream's id."""
    t = schema.attempts
    by_dream: dict[str, list[Attempt]] = {dream_id: [] for dream_id in dream_ids}
    for row in all_of(connection, Attempt, select(t).where(t.c.dream_id.in_(dream_ids)).order_by(t.c.id)):
        by_dream[row.dream_id].append(row)
    return by_dream


def pairs(connection: Connection, state: str) -> list[Pair]:
    """Return all pairs in this state."""
    t = schema.pairs
    return all_of(connection, Pair, select(t).where(t.c.state == state).order_by(t.c.id))


def placement_trials(connection: Connection, night_id: str) -> list[PlacementTrial]:
    """Return the trials of placements that a night has made."""
    t = schema.placement_trials
    query = select(t).where(t.c.night_id == night_id).order_by(t.c.behaviour)
    return all_of(connection, PlacementTrial, query)


def last_trial(connection: Connection, behaviour: str, rule: str) -> PlacementTrial | None:
    """Return the newest trial of the placements of an instruction on this home's model; None without one.

    Args:
        connection: The ledger.
        behaviour: Name of the behaviour.
        rule: Digest of its instruction.
    """
    t, n = schema.placement_trials, schema.nights
    same = (t.c.model == model_digest(connection)) & (t.c.behaviour == behaviour) & (t.c.rule == rule)
    query = select(t).join(n, n.c.id == t.c.night_id).where(same).order_by(n.c.number.desc()).limit(1)
    return first_of(connection, PlacementTrial, query)
