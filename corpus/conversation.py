"""A conversation and its turns, into which every log format is read.

Invariant: values only. Two conversations with the same source and the same turns have the same chain of
digests, whatever their file or format. This module knows nothing about files, formats or the ledger.
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
    """The words; secrets are scrubbed from them before they are stored."""
    line: int
    """Line of the source file, counted from 1."""
    time: datetime | None = None
    """Time of the utterance, aware and in UTC; None if the log gives none."""
    rating: float | None = None
    """An explicit rating of this turn by its reader, -1 (bad) to 1 (good)."""
    edited: str | None = None
    """The text that a person wrote or preferred in place of this turn."""
    key: str = ""
    """The log's own id of this turn, where turns arrive one by one; "" otherwise."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """One log, or the part of it that has arrived."""

    source: str
    """The user whom the log names, else the file's name."""
    format: str
    """Name of the reader that read it."""
    turns: tuple[Turn, ...]
    """In order."""
    key: str = ""
    """The log's own id of this conversation, where turns arrive one by one; "" otherwise."""
    session: str = ""
    """The log's own name for lines that belong together and each repeat the whole history; "" without one."""


def chain(source: str, turns: tuple[Turn, ...], *, tail: str = "") -> list[str]:
    """Return the digest of every prefix of the turns.

    A log that repeats the whole history at each request gives the same digests for the same prefix. So a
    conversation that is read twice is recognised, and so is a longer one that continues it. Spaces around a
    turn do not count, because clients drop them from the history that they repeat.

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
