"""A conversation and its turns: the common form of all log formats.

Invariant: this module holds values only. Two conversations with the same source and the same turns have the
same chain of digests, whatever their file or format. It knows nothing about files, formats or the ledger.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from corpus.aliases import Json

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A call of a tool by the model."""

    name: str
    arguments: str
    """The arguments as JSON text, with the keys in the order in which the model wrote them."""
    id: str = ""
    """The id by which the result of the call names it; "" without one."""


@dataclass(frozen=True, kw_only=True)
class Structure:
    """A turn as the model saw or wrote it, where its text alone does not show that."""

    content: str
    """The words, without the tool calls; secrets are removed from them before they are stored."""
    calls: tuple[ToolCall, ...] = ()
    """The tool calls of an answer."""
    call_id: str = ""
    """For the result of a tool: the id of the call."""
    name: str = ""
    """Name of the tool or of the speaker, if the log gives one."""
    answer: str = ""
    """The log's id of the answer of which this turn is a part; "" if the turn is a whole message."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """A rating as the log has it, before the scale of the log is known."""

    field: str
    """Name of the log's field; the fields of a log may have different scales."""
    value: float | str
    """The number, or a text that is no known rating."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One utterance."""

    role: str
    """One of ROLES."""
    text: str
    """The text, tool calls included; secrets are removed from it before it is stored."""
    line: int
    """Line of the source file, counted from 1."""
    time: datetime | None = None
    """Time of the utterance, aware and in UTC; None if the log gives none."""
    rating: float | None = None
    """A person's explicit rating of this turn, -1 (bad) to 1 (good); None without one."""
    score: Score | None = None
    """A rating whose scale a reader cannot know; ingest turns it into `rating`. None in the ledger."""
    edited: str | None = None
    """The text that a person wrote or preferred in place of this turn; None without one."""
    key: str = ""
    """The log's own id of this turn, for a log in which turns arrive one by one; "" for others."""
    structure: Structure | None = None
    """The message that the model saw or wrote; None if it is the role and the text."""
    tools: tuple[Json, ...] | None = None
    """Definitions of the tools that the model was offered from this turn on, in OpenAI's form; None for those
    of the turn before."""


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
    copied: int = 0
    """Number of leading turns that another conversation of the log has too; their signals count there."""


def chain(source: str, turns: tuple[Turn, ...], *, tail: str = "") -> list[str]:
    """Return the digest of every prefix of the turns, the shortest prefix first.

    A log that repeats the whole history at each request gives the same digests for the same prefix. So a
    conversation that is read twice is recognised, and so is a longer one that continues it. Spaces around the
    text of a turn do not count, because clients drop them from the history that they repeat. The structure of
    a turn does not count: its text names the tool calls already.

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


def structure_of(value: Any) -> Structure | None:
    """Return the structure from which `corpus.json_edge.to_json` made this JSON value; None for None."""
    if value is None:
        return None
    return Structure(**{**value, "calls": tuple(ToolCall(**call) for call in value["calls"])})


def tools_at(turns: Sequence[Turn], position: int) -> tuple[Json, ...]:
    """Return the definitions of the tools that the model was offered for the answer at this position."""
    named = (turn.tools for turn in reversed(turns[: position + 1]) if turn.tools is not None)
    return next(named, ())
