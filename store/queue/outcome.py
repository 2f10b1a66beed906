"""The results that an agent's handler returns, and the one transaction that commits them.

Invariant: results, follow-up work, "done" and the event are committed together or not at all: at-least-once
delivery, exactly-once effect. A handler never writes to the ledger itself.
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
    """New values for columns of existing rows."""

    table: str
    where: dict[str, Any]
    """Values by column; a list means any of its values."""
    values: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The results of one piece of work."""

    decision: str = "done"
    """By which the flow chooses the follow-up work."""
    names: tuple[str, ...] = ()
    """Subjects of the decision, where it has several."""
    records: tuple[Record, ...] = ()
    changes: tuple[Change, ...] = ()
    then: Callable[[Connection], None] | None = None
    """A further write in the transaction, such as that of a verdict or of a night's end."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Figures for the event."""


def commit(
    connection: Connection, item: Work, outcome: Outcome, follow_up: Iterable[tuple[str, str]]
) -> None:
    """Save the outcome of a piece of work and its follow-up work, and mark it as done.

    Nothing happens if the work is no longer wanted: its subject is gone, or its night was ended.
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
    """Carry out one change."""
    table = schema.metadata.tables[change.table]
    statement = table.update().values(**change.values)
    for name, value in change.where.items():
        column = table.c[name]
        statement = statement.where(column.in_(value) if isinstance(value, list) else column == value)
    connection.execute(statement)


def note(connection: Connection, kind: str, subject: str, body: dict[str, Any]) -> None:
    """Add an event."""
    connection.execute(schema.events.insert().values(kind=kind, subject=subject, body=body, at=now()))
