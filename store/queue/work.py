"""The durable work queue: the rows of the table `work`.

Invariant: the results of a piece of work, its follow-up work and its state `done` are committed in one
transaction (`finish`). If the process dies before that, the work runs again. Work runs in the order of its
ids. Work that fails `MAX_ATTEMPTS` times is quarantined with its error and never blocks other work; withdrawn
work never runs. This module knows nothing about agents.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection, func, select, update

from store.ledger.rows import first_of, parts
from store.ledger.schema import work

MAX_ATTEMPTS = 3
"""Number of failures after which a piece of work is quarantined."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """One leased piece of work; `attempts` is the number of its failures so far."""

    id: int
    kind: str
    subject: str
    night_id: str
    attempts: int


def enqueue(connection: Connection, kind: str, subject: str, night_id: str = "") -> None:
    """Add a piece of work, unless the queue has the same one already.

    Args:
        connection: The ledger, in a transaction that writes.
        kind: The kind of work.
        subject: Id of what the work is about.
        night_id: The night that the work belongs to; "" outside a night.
    """
    same = (work.c.kind == kind) & (work.c.subject == subject) & (work.c.night_id == night_id)
    if connection.execute(select(work.c.id).where(same)).first() is None:
        connection.execute(
            work.insert().values(kind=kind, subject=subject, night_id=night_id, state="ready", attempts=0)
        )


def enqueue_all(connection: Connection, kind: str, subjects: list[str]) -> None:
    """Add a piece of work outside a night for each of these subjects, unless the queue has it already."""
    same = (work.c.kind == kind) & (work.c.night_id == "")
    there = {
        subject
        for part in parts(subjects)
        for (subject,) in connection.execute(select(work.c.subject).where(same & work.c.subject.in_(part)))
    }
    plain = {"kind": kind, "night_id": "", "state": "ready", "attempts": 0}
    new = [{**plain, "subject": subject} for subject in dict.fromkeys(subjects) if subject not in there]
    if new:
        connection.execute(work.insert(), new)


def lease(connection: Connection, holder: str, kinds: Collection[str] = ()) -> Work | None:
    """Lease the oldest piece of work that is ready, and return it; None if no work is ready.

    Args:
        connection: The ledger, in a transaction that writes.
        holder: Name of the service that leases it.
        kinds: The kinds of work that may be leased; () for any.
    """
    columns = (work.c.id, work.c.kind, work.c.subject, work.c.night_id, work.c.attempts)
    query = select(*columns).where(work.c.state == "ready").order_by(work.c.id).limit(1)
    if kinds:
        query = query.where(work.c.kind.in_(kinds))
    item = first_of(connection, Work, query)
    if item is not None:
        _set(connection, item.id, state="leased", holder=holder)
    return item


def withdraw(connection: Connection, night_id: str, why: str) -> None:
    """Withdraw a night's work that is not done; results of work that is running now will not be saved."""
    waiting = (work.c.night_id == night_id) & work.c.state.in_(("ready", "leased"))
    connection.execute(update(work).where(waiting).values(state="withdrawn", holder=None, error=why))


def is_wanted(connection: Connection, item: Work) -> bool:
    """Return whether this work is still in the queue and was not withdrawn.

    The id alone is not enough, because the database may have given it to other work since.
    """
    same = (work.c.kind == item.kind) & (work.c.subject == item.subject) & (work.c.night_id == item.night_id)
    state = connection.execute(select(work.c.state).where((work.c.id == item.id) & same)).scalar()
    return state is not None and state != "withdrawn"


def finish(connection: Connection, item: Work) -> None:
    """Mark a piece of work as done; the caller saves its results in the same transaction."""
    _set(connection, item.id, state="done", holder=None, error=None)


def fail(connection: Connection, item: Work, error: str) -> bool:
    """Count a failure of a piece of work; return whether the work is quarantined now."""
    if not is_wanted(connection, item):
        return False
    attempts = item.attempts + 1
    is_last = attempts >= MAX_ATTEMPTS
    state = "set_aside" if is_last else "ready"
    _set(connection, item.id, state=state, attempts=attempts, holder=None, error=error)
    return is_last


def release(connection: Connection, item: Work) -> None:
    """Make a leased piece of work ready again without counting a failure.

    The service does this when it stops or when a user comes back.
    """
    if is_wanted(connection, item):
        _set(connection, item.id, state="ready", holder=None)


def release_all(connection: Connection) -> int:
    """Make all leased work ready again, and return the number of pieces.

    Only the service that holds the home may call it, after an earlier service has died.
    """
    stale = update(work).where(work.c.state == "leased").values(state="ready", holder=None)
    return int(connection.execute(stale).rowcount)


def leased(connection: Connection, kind: str) -> str | None:
    """Return the id of the night for which work of this kind is leased now; None without such work."""
    doing = (work.c.kind == kind) & (work.c.state == "leased")
    return connection.execute(select(work.c.night_id).where(doing)).scalar()


def counts(connection: Connection, state: str) -> dict[str, int]:
    """Return the number of pieces of work in this state, by kind."""
    query = select(work.c.kind, func.count()).where(work.c.state == state).group_by(work.c.kind)
    return {kind: count for kind, count in connection.execute(query)}


def _set(connection: Connection, work_id: int, **values: object) -> None:
    connection.execute(update(work).where(work.c.id == work_id).values(**values))
