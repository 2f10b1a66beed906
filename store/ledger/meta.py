"""Values of `meta`, the table of what the ledger knows about itself and its home, by key.

Invariant: a key has one value, a text; a missing key reads as "".
"""

from sqlalchemy import Connection, select

from store.ledger.schema import meta


def get(connection: Connection, key: str) -> str:
    """Return the value of a key; "" if it has none."""
    return str(connection.execute(select(meta.c.value).where(meta.c.key == key)).scalar() or "")


def put(connection: Connection, key: str, value: str) -> None:
    """Store the value of a key, in a transaction that writes."""
    connection.execute(meta.delete().where(meta.c.key == key))
    connection.execute(meta.insert().values(key=key, value=value))
