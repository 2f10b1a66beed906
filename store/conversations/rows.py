"""The rows of conversations and turns.

Invariant: pure but for the clock. The keys of a row are the columns of its table.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any, TypedDict

from corpus.conversation import Conversation, Turn, structure_of
from corpus.json_edge import to_json
from store.ledger.db import now
from store.ledger.records import StoredTurn


class ConversationRow(TypedDict):
    """The columns of a conversation."""

    id: str
    format: str
    key: str
    tail: str
    source: str
    path: str
    at: str
    copied: int


class TurnRow(TypedDict):
    """The columns of a turn, without its id."""

    conversation_id: str
    position: int
    chain: str
    path: str
    role: str
    text: str
    rating: float | None
    edited: str | None
    structure: Any
    tools: Any
    key: str
    time: str | None
    line: int


def conversation_row(
    conversation: Conversation, conversation_id: str, tail: str, path: str
) -> ConversationRow:
    """Return the row of a new conversation, by column."""
    key = conversation.key or conversation.session
    return {
        "id": conversation_id,
        "format": conversation.format,
        "key": key,
        "tail": tail,
        "source": conversation.source or PurePath(path).name,
        "path": path,
        "at": now(),
        "copied": conversation.copied,
    }


def with_new_tools(offered: tuple[Any, ...], turns: Sequence[Turn]) -> Iterator[Turn]:
    """Yield the turns; a turn that offers the same tools as the turn before it lists none.

    Args:
        offered: The tools that the turn before these offers.
        turns: The turns.
    """
    for turn in turns:
        same = turn.tools is None or turn.tools == offered
        offered = offered if turn.tools is None else turn.tools
        yield replace(turn, tools=None) if same and turn.tools is not None else turn


def turn_row(turn: Turn, conversation_id: str, position: int, chain: str, path: str) -> TurnRow:
    """Return the row of one turn, by column."""
    return {
        "conversation_id": conversation_id,
        "position": position,
        "chain": chain,
        "path": path,
        "role": turn.role,
        "text": turn.text,
        "rating": turn.rating,
        "edited": turn.edited,
        "structure": None if turn.structure is None else to_json(turn.structure),
        "tools": None if turn.tools is None else to_json(turn.tools),
        "key": turn.key,
        "time": turn.time.astimezone(UTC).isoformat(timespec="milliseconds") if turn.time else None,
        "line": turn.line,
    }


def turn_of(row: StoredTurn) -> Turn:
    """Return a turn of the ledger as a turn of a conversation, with the values that its log had."""
    return Turn(
        role=row.role,
        text=row.text,
        line=row.line,
        time=datetime.fromisoformat(row.time) if row.time else None,
        rating=row.rating,
        edited=row.edited,
        key=row.key,
        structure=structure_of(row.structure),
        tools=None if row.tools is None else tuple(row.tools),
    )
