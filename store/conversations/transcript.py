"""What was said in one conversation.

Invariant: reads only. Knows no reading and no signal.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, select

from corpus.errors import UnknownId
from store.ledger import schema


@dataclass(frozen=True, kw_only=True)
class Said:
    """One conversation with its turns."""

    id: str
    turns: tuple[tuple[str, str], ...]
    """Role and text of each, in order."""


def conversation(connection: Connection, wanted: str | None) -> Said:
    """The conversation with this id, or an unambiguous beginning of it; None for the one that was heard last."""
    t = schema.conversations
    if wanted is None:
        last = select(schema.turns.c.conversation_id).order_by(schema.turns.c.id.desc()).limit(1)
        ids = list(connection.execute(last).scalars())
        problem = "no conversation has been heard yet: `nightschool ingest FILE` takes some in"
    else:
        beginning = t.c.id.startswith(wanted, autoescape=True)
        ids = list(connection.execute(select(t.c.id).where(beginning).limit(2)).scalars()) if wanted else []
        several = f"several conversations begin with {wanted!r}: give more of the id"
        problem = several if ids else f"{wanted!r} is neither a file nor the beginning of a conversation's id"
    if len(ids) != 1:
        raise UnknownId(problem)
    s = schema.turns
    said = select(s.c.role, s.c.text).where(s.c.conversation_id == ids[0]).order_by(s.c.position)
    return Said(id=ids[0], turns=tuple((row.role, row.text) for row in connection.execute(said)))
