"""Queries of conversations: a conversation and its turns.

Invariant: this module only reads; turns come in the order in which they were logged.
"""

from sqlalchemy import Connection, select

from corpus.errors import UnknownId
from store.ledger import schema
from store.ledger.records import StoredConversation, StoredTurn
from store.ledger.rows import all_of, first_of


def conversation(connection: Connection, conversation_id: str) -> StoredConversation:
    """Return the conversation with this full id; raise UnknownId if there is none."""
    t = schema.conversations
    row = first_of(connection, StoredConversation, select(t).where(t.c.id == conversation_id))
    if row is None:
        raise UnknownId(f"there is no conversation {conversation_id!r} in the ledger")
    return row


def conversation_named(connection: Connection, wanted: str | None) -> StoredConversation:
    """Return the conversation that a user names.

    Args:
        connection: The ledger.
        wanted: The conversation's id, or a prefix that no other id has. None for the conversation with the
            newest turn.

    Raises:
        UnknownId: No conversation has this name, or several have it.
    """
    c, t = schema.conversations, schema.turns
    if wanted is None:
        last = select(t.c.conversation_id).order_by(t.c.id.desc()).limit(1)
        newest = first_of(connection, StoredConversation, select(c).where(c.c.id == last.scalar_subquery()))
        if newest is None:
            raise UnknownId("no conversation has been heard yet: `nightschool ingest FILE` takes some in")
        return newest
    prefix = c.c.id.startswith(wanted, autoescape=True)
    rows = all_of(connection, StoredConversation, select(c).where(prefix).limit(2))
    if not wanted or not rows:
        raise UnknownId(f"{wanted!r} is neither a file nor the beginning of a conversation's id")
    if len(rows) > 1:
        raise UnknownId(f"several conversations begin with {wanted!r}: give more of the id")
    return rows[0]


def turns(connection: Connection, conversation_id: str) -> list[StoredTurn]:
    """Return the turns of a conversation, in order."""
    t = schema.turns
    mine = select(t).where(t.c.conversation_id == conversation_id).order_by(t.c.position)
    return all_of(connection, StoredTurn, mine)
