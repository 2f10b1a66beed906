"""Queries of nights, and of the state of the home between them.

Invariant: this module only reads.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select

from corpus.errors import UnknownId
from store.ledger import meta, schema
from store.ledger.db import now
from store.ledger.records import Night
from store.ledger.rows import first_of


def night(connection: Connection, night_id: str) -> Night:
    """Return the night with this id; raise UnknownId if there is none."""
    row = first_of(connection, Night, select(schema.nights).where(schema.nights.c.id == night_id))
    if row is None:
        raise UnknownId(f"there is no night {night_id}; `nightschool ledger events` lists them")
    return row


def running_night(connection: Connection) -> Night | None:
    """Return the night that has begun and not ended; None if there is none."""
    return first_of(connection, Night, select(schema.nights).where(schema.nights.c.state == "running"))


def repeated_by(connection: Connection, night_id: str) -> tuple[str, str] | None:
    """Return the night whose update this night made again, and the source that it left out; None if none."""
    for body in _begun(connection, night_id):
        if "repeats" in body:
            return body["repeats"], body["without"]
    return None


def repeat_of(connection: Connection, night_id: str) -> str | None:
    """Return the night that made this night's update again without one source; None if there is none."""
    later = select(schema.nights.c.id).where(schema.nights.c.number > night(connection, night_id).number)
    for other in connection.execute(later.order_by(schema.nights.c.number).limit(1)).scalars():
        repeated = repeated_by(connection, other)
        return other if repeated is not None and repeated[0] == night_id else None
    return None


def _begun(connection: Connection, night_id: str) -> list[dict[str, Any]]:
    """Return the bodies of a night's own events."""
    e = schema.events.c
    query = select(e.body).where((e.kind == "night") & (e.subject == night_id)).order_by(e.seq)
    return list(connection.execute(query).scalars())


def last_night(connection: Connection) -> Night | None:
    """Return the newest night; None if there was none yet."""
    return first_of(connection, Night, select(schema.nights).order_by(schema.nights.c.number.desc()).limit(1))


def nights_since(connection: Connection, moment: datetime) -> int:
    """Return the number of nights since this moment that had behaviours to improve or made an update.

    Nights of the future do not count: the clock was wrong then or is now, and they would block all others.
    """
    t, u = schema.nights, schema.updates
    since = moment.isoformat(timespec="milliseconds")
    recent = t.c.started.between(since, now())
    query = select(t.c.targets, u.c.id).outerjoin(u, u.c.night_id == t.c.id).where(recent)
    return sum(1 for targets, update_id in connection.execute(query) if targets or update_id)


def cursor(connection: Connection) -> int:
    """Return the id of the newest turn; 0 for an empty ledger."""
    return int(connection.execute(select(func.max(schema.turns.c.id))).scalar() or 0)


def is_paused(connection: Connection) -> bool:
    """Return whether the user has paused the schedule."""
    return meta.get(connection, "paused") == "1"


def paused_during(connection: Connection, night_id: str) -> bool:
    """Return whether the home was paused after this night began and is still paused.

    If so, the night's update waits. A night that a user begins by hand in a paused home does not wait.
    """
    e = schema.events
    began = (
        select(func.min(e.c.seq)).where((e.c.kind == "night") & (e.c.subject == night_id)).scalar_subquery()
    )
    since = select(e.c.seq).where((e.c.kind == "paused") & (e.c.seq > began)).limit(1)
    return is_paused(connection) and connection.execute(since).first() is not None


def tokens(connection: Connection, night_id: str) -> dict[str, tuple[int, int]]:
    """Return the tokens that a night's work has generated and has read so far, by the kind of the work.

    Only work that is done counts. What it cost is in the body of its event.
    """
    e = schema.events.c
    counts: dict[str, tuple[int, int]] = {}
    for kind, body in connection.execute(select(e.kind, e.body).where(e.subject == night_id).order_by(e.seq)):
        before = counts.get(kind, (0, 0))
        counts[kind] = (before[0] + body.get("tokens", 0), before[1] + body.get("tokens_read", 0))
    return counts


def model_digest(connection: Connection) -> str:
    """Return the digest of the model that checkpoint 0 came from; "" if it was not recorded."""
    return meta.get(connection, "model")
