"""A conversation and its turns: what every log format is read into.

Invariant: values only. Two conversations with the same source and the same turns have the same chain of
digests, whatever file or format they came from. Knows nothing of files, formats or the ledger.
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
    """What was said, scrubbed of secrets before it is stored."""
    line: int
    """Line of the source file it came from, counted from 1."""
    time: datetime | None = None
    """When it was said, aware and in UTC; None where the log does not tell."""
    rating: float | None = None
    """An explicit rating of this turn by its reader, -1 (bad) to 1 (good)."""
    edited: str | None = None
    """What a person wrote or preferred in place of this turn."""
    key: str = ""
    """The log's own id of this turn, where turns arrive one by one; "" otherwise."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """One log, or the part of it that has arrived."""

    source: str
    """Who it came from: the log's user field where it has one, else the file's name."""
    format: str
    """Name of the reader that read it."""
    turns: tuple[Turn, ...]
    """In order."""
    key: str = ""
    """The log's own id of this conversation, where turns arrive one by one; "" otherwise."""
    session: str = ""
    """The log's own name for what belongs together, where each line repeats the whole history; "" without one."""


def chain(source: str, turns: tuple[Turn, ...], *, tail: str = "") -> list[str]:
    """Digest of every prefix of the turns, after a conversation whose digest so far is `tail`.

    A log that repeats the whole history at each request gives the same digests for the same
    prefix: that is how the same conversation twice is one conversation, and a longer one a growth.
    Spaces around a turn do not count: clients drop them from what they repeat.
    """
    digest = tail or hashlib.sha256(f"source\0{source}".encode()).hexdigest()
    digests = []
    for turn in turns:
        digest = hashlib.sha256(f"{digest}\0{turn.role}\0{turn.text.strip()}".encode()).hexdigest()
        digests.append(digest)
    return digests
