"""What is removed from text before it is stored: secrets, and what names a person if the home masks it.

Invariant: whether the home masks, and the key of its masks, are in the ledger, so that all code that writes
conversations masks in the same way. The key stays when masking is switched off, so that masks mean the same
later.
"""

import secrets
from functools import partial

from sqlalchemy import Connection, select

from corpus.scrub.patterns import RULES, Clean, scrub
from corpus.scrub.personal import mask
from store.ledger import schema

KEY, MASKS, SCRUBBED = "pii_key", "pii", "scrubbed"
"""Keys in `meta`: of the key of the masks, whether the home masks, and the rules that its texts are of."""
KEEP, MASK = "keep", "mask"


def cleaner(connection: Connection) -> Clean:
    """Return the function that removes from a text what this home does not store."""
    key = get_meta(connection, KEY)
    return partial(_masked, key=bytes.fromhex(key)) if masks(connection) and key else scrub


def _masked(text: str, key: bytes) -> str:
    return mask(scrub(text), key)


def masks(connection: Connection) -> bool:
    """Return whether this home masks what names a person."""
    return get_meta(connection, MASKS) == MASK


def rules(connection: Connection) -> str:
    """Return the name of the rules that apply now; stored text may have been scrubbed by others."""
    return f"{RULES}:{MASK if masks(connection) else KEEP}"


def begin(connection: Connection) -> None:
    """Store that the texts of a ledger, which has none yet, are scrubbed by today's rules."""
    set_meta(connection, SCRUBBED, rules(connection))


def agrees(connection: Connection, wanted: str) -> bool:
    """Return whether the ledger already has this choice: `keep` or `mask`."""
    return (get_meta(connection, MASKS) or KEEP) == wanted


def set_masking(connection: Connection, wanted: str) -> None:
    """Store whether the home masks what names a person, and make its key if it needs one.

    Args:
        connection: The ledger, in a transaction that writes.
        wanted: `keep` or `mask`.
    """
    set_meta(connection, MASKS, wanted)
    if wanted == MASK and not get_meta(connection, KEY):
        set_meta(connection, KEY, secrets.token_hex(32))


def get_meta(connection: Connection, key: str) -> str:
    """Return a value of `meta`; "" if it has none."""
    t = schema.meta.c
    return str(connection.execute(select(t.value).where(t.key == key)).scalar() or "")


def set_meta(connection: Connection, key: str, value: str) -> None:
    """Store a value in `meta`."""
    connection.execute(schema.meta.delete().where(schema.meta.c.key == key))
    connection.execute(schema.meta.insert().values(key=key, value=value))
