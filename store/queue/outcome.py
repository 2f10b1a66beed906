"""What an agent's handler returns, and the one transaction in which it becomes true.

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
    """New values for columns of rows that are there already."""

    table: str
    where: dict[str, Any]
    """Equality on columns; a list means any of its values."""
    values: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The results of one piece of work."""

    decision: str = "done"
    """What the flow goes by."""
    names: tuple[str, ...] = ()
    """What the decision is about, where it is about several things."""
    records: tuple[Record, ...] = ()
    changes: tuple[Change, ...] = ()
    then: Callable[[Connection], None] | None = None
    """What else belongs into the transaction: how a verdict or a night's end becomes true."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Figures for the event."""


def commit(
    connection: Connection, item: Work, outcome: Outcome, follow_up: Iterable[tuple[str, str]]
) -> None:
    """Store the outcome of a piece of work, what follows from it, and that it is done.

    Nothing, if nobody wants it any more: what it is about was removed meanwhile, or its night was ended.
    """
    if not is_wanted(connection, item):
        return
    learnt = [r for r in outcome.records if isinstance(r, Signal | Node | Edge)]
    if learnt:
        merge(connection, learnt)
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
