"""Questions about conversations: one of them, and its turns.

Invariant: reads only; turns come in the order in which they were logged.
"""

from sqlalchemy import Connection, select

from corpus.errors import UnknownId
from store.ledger import schema
from store.ledger.records import StoredConversation, StoredTurn
from store.ledger.rows import all_of, first_of


def conversation(connection: Connection, conversation_id: str) -> StoredConversation:
    """Return one conversation by its full id."""
    t = schema.conversations
    row = first_of(connection, StoredConversation, select(t).where(t.c.id == conversation_id))
    if row is None:
        raise UnknownId(f"there is no conversation {conversation_id!r} in the ledger")
    return row


def turns(connection: Connection, conversation_id: str) -> list[StoredTurn]:
    """Return the turns of a conversation, in order."""
    t = schema.turns
    mine = select(t).where(t.c.conversation_id == conversation_id).order_by(t.c.position)
    return all_of(connection, StoredTurn, mine)
