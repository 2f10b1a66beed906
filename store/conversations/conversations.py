"""Conversations in the ledger: what is new is added, what is known is recognised, what grew is carried on.

Invariant: nothing reaches a row unscrubbed; the same turns twice are one conversation; every conversation that
is new or grew has an `extract` in the work queue, committed with its turns. Ids depend on what was said and by
whom, never on a path, so two homes that heard the same give the same ids. What goes through a turn that a user
had removed (`forgotten`) is passed over. Knows no format and opens no file.

Where a log does not name its user, the file's name is stored as the source but is no part of the identity: a
renamed or copied log is known. A conversation whose turns arrive one by one is found by its key instead. Within a
session the words of the system turn are no part of it either: clients put the time of day there.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from pathlib import PurePath
from typing import Any

from sqlalchemy import Connection, func, select

from corpus.conversation import Conversation, Turn, chain
from corpus.scrub.patterns import scrub, scrub_conversation
from store.ledger import schema
from store.ledger.db import now
from store.ledger.rows import parts
from store.queue.work import enqueue

ID_LENGTH = 16
"""Hex characters of a conversation's id: 64 bits."""


@dataclass(frozen=True, kw_only=True)
class Added:
    """What became of one conversation."""

    conversation_id: str
    new_turns: int
    """Turns that the ledger did not have."""
    known: bool
    """Whether the ledger had the conversation before, as it is now or shorter."""
    forgotten: bool = False
    """Whether it was passed over, because it goes through what a user had removed."""


@dataclass(frozen=True, kw_only=True)
class FileState:
    """How far a file has been read."""

    path: str
    """As it is stored: see `corpus.scrub.patterns.scrub_name`."""
    format: str
    """Name of the reader."""
    identity: str
    """Tells this file from another one that has taken its name."""
    offset: int
    """Bytes consumed, always just after a newline."""
    line: int
    """Lines consumed."""


_PASSED_OVER = Added(conversation_id="", new_turns=0, known=False, forgotten=True)


def add(connection: Connection, conversation: Conversation, path: str) -> Added:
    """Add what the ledger does not have of a conversation; `path` must have been scrubbed."""
    conversation = scrub_conversation(conversation)
    if not conversation.turns:
        raise ValueError("a conversation without turns is the reader's to refuse")
    if conversation.key:
        return _add_keyed(connection, conversation, path)
    return _add_whole(connection, conversation, path)


def marks(conversation: Conversation) -> list[str]:
    """By what a conversation is known again after it was forgotten.

    The digest of each of its beginnings; where its turns arrive one by one, its key alone: the later ones too are
    of the conversation that a user had removed.
    """
    if conversation.key:
        return [key_mark(conversation.format, conversation.key)]
    return _digests(scrub_conversation(conversation))


def key_mark(format: str, key: str) -> str:
    """What stands for a conversation whose turns arrive one by one."""
    return hashlib.sha256(f"key\0{format}\0{key}".encode("utf-8", "surrogatepass")).hexdigest()


def find(connection: Connection, conversation: Conversation) -> str | None:
    """The conversation that this one, logged whole, became or was found to be."""
    return _known(connection, _digests(scrub_conversation(conversation))[-1])


def conversation_of(connection: Connection, key: str) -> str | None:
    """The conversation of the turn with this key."""
    table = schema.turns
    found: str | None = connection.execute(select(table.c.conversation_id).where(table.c.key == key)).scalar()
    return found


def file_state(connection: Connection, path: str) -> FileState | None:
    """How far a file has been read; None for a file that never was."""
    row = connection.execute(select(schema.files).where(schema.files.c.path == path)).mappings().first()
    return FileState(**row) if row else None


def formats_of(connection: Connection) -> dict[str, str]:
    """The format of every file that was ever read, by path."""
    table = schema.files
    rows = connection.execute(
        select(table.c.path, table.c.format).where(table.c.format != "").order_by(table.c.path)
    )
    return {path: format for path, format in rows}


def save_file_state(connection: Connection, state: FileState) -> None:
    """Remember how far a file has been read, in the transaction that holds what was read."""
    table = schema.files
    values = {"format": state.format, "identity": state.identity, "offset": state.offset, "line": state.line}
    if connection.execute(table.update().where(table.c.path == state.path).values(**values)).rowcount == 0:
        connection.execute(table.insert().values(path=state.path, **values))


def set_aside_line(connection: Connection, path: str, line: int, reason: str) -> bool:
    """Set a line aside with the reason (line 0: the whole file); returns whether this is news."""
    table, reason = schema.set_aside_lines, scrub(reason)
    place = (table.c.path == path) & (table.c.line == line)
    if connection.execute(select(table.c.reason).where(place)).scalar() == reason:
        return False
    connection.execute(table.delete().where(place))
    connection.execute(table.insert().values(path=path, line=line, reason=reason, at=now()))
    return True


def forget_set_aside(connection: Connection, path: str) -> None:
    """Drop what was set aside of a file: it is about to be read from its beginning."""
    table = schema.set_aside_lines
    connection.execute(table.delete().where(table.c.path == path))


def ids_of_path(connection: Connection, path: str) -> set[str]:
    """The conversations that were first heard in this file."""
    table = schema.conversations
    return set(connection.execute(select(table.c.id).where(table.c.path == path)).scalars())


def _add_whole(connection: Connection, conversation: Conversation, path: str) -> Added:
    """A conversation that is logged with its whole history each time."""
    turns = conversation.turns
    digests = _digests(conversation)
    known = _known(connection, digests[-1])
    if known is not None:  # as it is, or as a longer one began
        return Added(conversation_id=known, new_turns=0, known=True)
    if _is_forgotten(connection, digests):
        return _PASSED_OVER
    grown = _longest_known(connection, digests)
    if grown is None:
        conversation_id = digests[-1][:ID_LENGTH]
        _new(connection, conversation, conversation_id, digests[-1], path)
        _append(connection, conversation_id, 0, turns, digests, path)
        return Added(conversation_id=conversation_id, new_turns=len(turns), known=False)
    conversation_id, length = grown
    _grow(connection, conversation_id, digests[-1])
    _append(connection, conversation_id, length, turns[length:], digests[length:], path)
    return Added(conversation_id=conversation_id, new_turns=len(turns) - length, known=True)


def _add_keyed(connection: Connection, conversation: Conversation, path: str) -> Added:
    """A part of a conversation whose turns arrive one by one, each with a key."""
    table = schema.conversations
    mine = (table.c.key == conversation.key) & (table.c.format == conversation.format)
    row = connection.execute(select(table.c.id, table.c.tail).where(mine)).first()
    if row is None and _is_forgotten(connection, marks(conversation)):
        return _PASSED_OVER
    heard = set(_known_keys(connection, row.id, conversation.turns)) if row else set()
    fresh = []
    for turn in conversation.turns:
        if turn.key not in heard:
            fresh.append(turn)
            heard.add(turn.key)
    root = f"{conversation.format}\0{conversation.source}\0{conversation.key}"
    digests = chain(root, tuple(fresh), tail=row.tail if row else "")
    conversation_id = row.id if row else digests[0][:ID_LENGTH]  # of the first turn: cuts must not matter
    if row is None:
        _new(connection, conversation, conversation_id, digests[-1], path)
    elif fresh:
        _grow(connection, conversation_id, digests[-1])
    if fresh:
        start = _count(connection, conversation_id) if row else 0
        _append(connection, conversation_id, start, fresh, digests, path)
    return Added(conversation_id=conversation_id, new_turns=len(fresh), known=row is not None)


def _digests(conversation: Conversation) -> list[str]:
    """Digest of every prefix of a conversation that is logged whole."""
    if not conversation.session:
        return chain(conversation.source, conversation.turns)
    turns = (replace(turn, text="") if turn.role == "system" else turn for turn in conversation.turns)
    return chain(f"{conversation.source}\0{conversation.session}", tuple(turns))


def _is_forgotten(connection: Connection, digests: list[str]) -> bool:
    """Whether a user had a turn removed that this conversation goes through."""
    t = schema.forgotten
    looks = (select(t.c.chain).where(t.c.chain.in_(part)).limit(1) for part in parts(digests))
    return any(connection.execute(look).first() is not None for look in looks)


def _known(connection: Connection, digest: str) -> str | None:
    """The conversation that is so, or began so."""
    table = schema.turns
    same = select(table.c.conversation_id).where(table.c.chain == digest).order_by(table.c.id).limit(1)
    found: str | None = connection.execute(same).scalar()
    return found


def _longest_known(connection: Connection, digests: list[str]) -> tuple[str, int] | None:
    """The stored conversation that this one carries on, and how many turns it has."""
    table = schema.conversations
    lengths = {digest: length for length, digest in enumerate(digests, start=1)}
    found = [
        (row.id, lengths[row.tail])
        for part in parts(digests)
        for row in connection.execute(select(table.c.id, table.c.tail).where(table.c.tail.in_(part)))
    ]
    return max(found, key=lambda one: one[1], default=None)


def _known_keys(connection: Connection, conversation_id: str, turns: Sequence[Turn]) -> Iterator[str]:
    """Which of these turns the conversation has already."""
    table = schema.turns
    for part in parts([turn.key for turn in turns]):
        there = (table.c.conversation_id == conversation_id) & table.c.key.in_(part)
        yield from connection.execute(select(table.c.key).where(there)).scalars()


def _new(
    connection: Connection, conversation: Conversation, conversation_id: str, tail: str, path: str
) -> None:
    """The row of a conversation that was never heard before."""
    key = conversation.key or conversation.session
    row = {"id": conversation_id, "format": conversation.format, "key": key, "tail": tail}
    source = conversation.source or PurePath(path).name
    connection.execute(schema.conversations.insert().values(**row, source=source, path=path, at=now()))


def _grow(connection: Connection, conversation_id: str, tail: str) -> None:
    """Give a conversation its new tail."""
    table = schema.conversations
    connection.execute(table.update().where(table.c.id == conversation_id).values(tail=tail))


def _append(
    connection: Connection,
    conversation_id: str,
    start: int,
    turns: Sequence[Turn],
    digests: list[str],
    path: str,
) -> None:
    """Put turns at the end of a conversation, and the work to extract what they teach in the queue."""
    rows = [
        _row(turn, conversation_id=conversation_id, position=position, chain=digest, path=path)
        for position, (turn, digest) in enumerate(zip(turns, digests, strict=True), start=start)
    ]
    connection.execute(schema.turns.insert(), rows)
    enqueue(connection, "extract", f"{conversation_id}:{start + len(turns)}")


def _row(turn: Turn, **place: Any) -> dict[str, Any]:
    """One turn as a row."""
    time = turn.time.astimezone(UTC).isoformat(timespec="milliseconds") if turn.time else None
    said = {
        "role": turn.role,
        "text": turn.text,
        "rating": turn.rating,
        "edited": turn.edited,
        "key": turn.key,
    }
    return {**place, **said, "time": time, "line": turn.line}


def _count(connection: Connection, conversation_id: str) -> int:
    """How many turns a conversation has."""
    mine = schema.turns.c.conversation_id == conversation_id
    return int(connection.execute(select(func.count()).select_from(schema.turns).where(mine)).scalar() or 0)
