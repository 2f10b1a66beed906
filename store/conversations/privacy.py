"""What is removed from text before it is stored: secrets, and what names a person if the home masks it.

Invariant: whether the home masks, and the key of its masks, are in the ledger, so that all code that writes
conversations masks in the same way. The key stays when masking is switched off, so that masks mean the same
later.
"""

import secrets
from functools import partial

from sqlalchemy import Connection

from corpus.scrub.patterns import RULES, Clean, scrub
from corpus.scrub.personal import mask
from store.ledger import meta

KEY, MASKS, SCRUBBED = "pii_key", "pii", "scrubbed"
"""Keys in `meta`: of the key of the masks, whether the home masks, and the rules that its texts are of."""
KEEP, MASK = "keep", "mask"


def cleaner(connection: Connection) -> Clean:
    """Return the function that removes from a text what this home does not store."""
    key = meta.get(connection, KEY)
    return partial(_masked, key=bytes.fromhex(key)) if masks(connection) and key else scrub


def _masked(text: str, key: bytes) -> str:
    return mask(scrub(text), key)


def masks(connection: Connection) -> bool:
    """Return whether this home masks what names a person."""
    return meta.get(connection, MASKS) == MASK


def rules(connection: Connection) -> str:
    """Return the name of the rules that apply now; stored text may have been scrubbed by others."""
    return f"{RULES}:{MASK if masks(connection) else KEEP}"


def begin(connection: Connection) -> None:
    """Store that the texts of a ledger, which has none yet, are scrubbed by today's rules."""
    meta.put(connection, SCRUBBED, rules(connection))


def agrees(connection: Connection, wanted: str) -> bool:
    """Return whether the ledger already has this choice: `keep` or `mask`."""
    return (meta.get(connection, MASKS) or KEEP) == wanted


def set_masking(connection: Connection, wanted: str) -> None:
    """Store whether the home masks what names a person, and make its key if it needs one.

    Args:
        connection: The ledger, in a transaction that writes.
        wanted: `keep` or `mask`.
    """
    meta.put(connection, MASKS, wanted)
    if wanted == MASK and not meta.get(connection, KEY):
        meta.put(connection, KEY, secrets.token_hex(32))
