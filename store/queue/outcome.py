"""The results that an agent's handler returns, and the one transaction that commits them.

Invariant: the results of a piece of work, its follow-up work, its state `done` and its event are committed
together or not at all. So work may run more than once, but takes effect exactly once. A handler never writes
to the ledger itself.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from store.graph import merge
from store.ledger import schema
from store.ledger.db import now
from store.ledger.records import Edge, Node, Record, Signal, save
from store.queue.work import Work, enqueue, finish, is_wanted


@dataclass(frozen=True, kw_only=True)
class Change:
    """New values for some columns of existing rows."""

    table: str
    where: dict[str, Any]
    """The rows to change: the value that each of these columns has; a list stands for any of its values."""
    values: dict[str, Any]
    """The new values, by column."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The results of one piece of work."""

    decision: str = "done"
    """A name for the result; the follow-up work depends on it."""
    names: tuple[str, ...] = ()
    """Subjects of the follow-up work, if there are several."""
    records: tuple[Record, ...] = ()
    """Rows to add."""
    changes: tuple[Change, ...] = ()
    """Changes of existing rows."""
    then: Callable[[Connection], None] | None = None
    """A further write in the same transaction, such as carrying out a verdict or closing a night."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Figures for the event's body."""


def commit(
    connection: Connection, item: Work, outcome: Outcome, follow_up: Iterable[tuple[str, str]]
) -> None:
    """Save the outcome of a piece of work and its follow-up work, and mark the work as done.

    Nothing is saved if the work was deleted from the queue or withdrawn in the meantime.

    Args:
        connection: The ledger, in a transaction that writes.
        item: The piece of work.
        outcome: The results that its handler returned.
        follow_up: (kind, subject) of each piece of work to add.
    """
    if not is_wanted(connection, item):
        return
    extracted = [r for r in outcome.records if isinstance(r, Signal | Node | Edge)]
    if extracted:
        merge(connection, extracted)
    save(connection, [r for r in outcome.records if not isinstance(r, Signal | Node | Edge)])
    for change in outcome.changes:
        apply(connection, change)
    if outcome.then is not None:
        outcome.then(connection)
    for kind, subject in follow_up:
        enqueue(connection, kind, subject, item.night_id)
    finish(connection, item)
    facts = {"decision": outcome.decision, **outcome.facts}
    note(connection, item.kind, item.night_id or item.subject, {"subject": item.subject, **facts})


def apply(connection: Connection, change: Change) -> None:
    """Make one change of existing rows."""
    table = schema.metadata.tables[change.table]
    statement = table.update().values(**change.values)
    for name, value in change.where.items():
        column = table.c[name]
        statement = statement.where(column.in_(value) if isinstance(value, list) else column == value)
    connection.execute(statement)


def note(connection: Connection, kind: str, subject: str, body: dict[str, Any]) -> None:
    """Add an event to the ledger.

    Args:
        connection: The ledger, in a transaction that writes.
        kind: The kind of the event.
        subject: Id of what the event is about; "" for the home as a whole.
        body: The details.
    """
    connection.execute(schema.events.insert().values(kind=kind, subject=subject, body=body, at=now()))
