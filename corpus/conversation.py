"""A conversation and its turns: the common form of all log formats.

Invariant: this module holds values only. Two conversations with the same source and the same turns have the
same chain of digests, whatever their file or format. It knows nothing about files, formats or the ledger.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One utterance."""

    role: str
    """One of ROLES."""
    text: str
    """The text; secrets are removed from it before it is stored."""
    line: int
    """Line of the source file, counted from 1."""
    time: datetime | None = None
    """Time of the utterance, aware and in UTC; None if the log gives none."""
    rating: float | None = None
    """A person's explicit rating of this turn, -1 (bad) to 1 (good); None without one."""
    edited: str | None = None
    """The text that a person wrote or preferred in place of this turn; None without one."""
    key: str = ""
    """The log's own id of this turn, for a log in which turns arrive one by one; "" for others."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """One conversation of a log, or the part of it that has arrived."""

    source: str
    """The user whom the log names; "" if it names none."""
    format: str
    """Name of the log format."""
    turns: tuple[Turn, ...]
    """The turns, in order."""
    key: str = ""
    """The log's own id of this conversation, for a log in which turns arrive one by one; "" for others."""
    session: str = ""
    """The log's own id of a session in which each line repeats the whole history; "" without one."""


def chain(source: str, turns: tuple[Turn, ...], *, tail: str = "") -> list[str]:
    """Return the digest of every prefix of the turns, the shortest prefix first.

    A log that repeats the whole history at each request gives the same digests for the same prefix. So a
    conversation that is read twice is recognised, and so is a longer one that continues it. Spaces around the
    text of a turn do not count, because clients drop them from the history that they repeat.

    Args:
        source: The source of the conversation, from which the first digest starts.
        turns: The turns, in order.
        tail: The last digest of the turns before these; "" to start from the source.
    """
    digest = tail or hashlib.sha256(f"source\0{source}".encode()).hexdigest()
    digests = []
    for turn in turns:
        digest = hashlib.sha256(f"{digest}\0{turn.role}\0{turn.text.strip()}".encode()).hexdigest()
        digests.append(digest)
    return digests
