"""The durable work queue: the rows of the `work` table, and nothing else.

Invariant: a piece of work is done when its results, its follow-up work and its own state are committed in one
transaction (`finish`); until then it is done again after a crash. Work runs in the order of its ids. Work
that fails MAX_ATTEMPTS times is set aside with its error and never blocks the rest; what was withdrawn is never
done. Knows no agent.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, func, select, update

from store.ledger.schema import work

MAX_ATTEMPTS = 3
"""Failures after which a piece of work is set aside."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """One piece of work."""

    id: int
    kind: str
    subject: str
    night_id: str
    attempts: int


def enqueue(connection: Connection, kind: str, subject: str, night_id: str = "") -> None:
    """Add a piece of work; the same work is there once."""
    same = (work.c.kind == kind) & (work.c.subject == subject) & (work.c.night_id == night_id)
    if connection.execute(select(work.c.id).where(same)).first() is None:
        connection.execute(
            work.insert().values(kind=kind, subject=subject, night_id=night_id, state="ready", attempts=0)
        )


def lease(connection: Connection, holder: str) -> Work | None:
    """Take the oldest piece of work that is ready."""
    query = select(work).where(work.c.state == "ready").order_by(work.c.id).limit(1)
    row = connection.execute(query).mappings().first()
    if row is None:
        return None
    _set(connection, row["id"], state="leased", holder=holder)
    return Work(
        id=row["id"],
        kind=row["kind"],
        subject=row["subject"],
        night_id=row["night_id"],
        attempts=row["attempts"],
    )


def withdraw(connection: Connection, night_id: str, why: str) -> None:
    """Nothing of this night is to be done any more; what is being done now will come to nothing."""
    waiting = (work.c.night_id == night_id) & work.c.state.in_(("ready", "leased"))
    connection.execute(update(work).where(waiting).values(state="withdrawn", holder=None, error=why))


def is_wanted(connection: Connection, item: Work) -> bool:
    """Whether this work is still in the ledger, where its number may be another's by now, and was not withdrawn."""
    row = connection.execute(select(work).where(work.c.id == item.id)).mappings().first()
    if row is None or row["state"] == "withdrawn":
        return False
    return all(row[key] == getattr(item, key) for key in ("kind", "subject", "night_id"))


def finish(connection: Connection, item: Work) -> None:
    """Mark as done; the caller stores the results in the same transaction."""
    _set(connection, item.id, state="done", holder=None, error=None)


def fail(connection: Connection, item: Work, error: str) -> bool:
    """Count a failure; returns whether the work is now set aside."""
    if not is_wanted(connection, item):
        return False
    attempts = item.attempts + 1
    aside = attempts >= MAX_ATTEMPTS
    state = "set_aside" if aside else "ready"
    _set(connection, item.id, state=state, attempts=attempts, holder=None, error=error)
    return aside


def hand_back(connection: Connection, item: Work) -> None:
    """Give up a lease without a failure: the service is stopping, or a user came back."""
    if is_wanted(connection, item):
        _set(connection, item.id, state="ready", holder=None)


def release_all(connection: Connection) -> int:
    """Make ready what a dead service had leased; only for the service that holds the home."""
    stale = update(work).where(work.c.state == "leased").values(state="ready", holder=None)
    return int(connection.execute(stale).rowcount)


def leased(connection: Connection, kind: str) -> str | None:
    """The night for which work of this kind is being done now, if any."""
    doing = (work.c.kind == kind) & (work.c.state == "leased")
    return connection.execute(select(work.c.night_id).where(doing)).scalar()


def counts(connection: Connection, state: str) -> dict[str, int]:
    """Pieces of work in this state, by kind."""
    query = select(work.c.kind, func.count()).where(work.c.state == state).group_by(work.c.kind)
    return {kind: count for kind, count in connection.execute(query)}


def _set(connection: Connection, work_id: int, **values: object) -> None:
    connection.execute(update(work).where(work.c.id == work_id).values(**values))
