"""Conversations in the ledger: new ones are added, known ones are recognised, and grown ones are continued.

Invariant: nothing reaches a row unscrubbed. The same turns twice are one conversation. Every conversation
that is new or grew has an `extract` in the work queue, committed with its turns. Ids depend on the texts and
the speaker, never on a path, so two homes that heard the same give the same ids. A conversation that goes
through a turn that a user had removed (`forgotten`) is passed over. This module knows nothing about formats,
and opens no file.

Where a log does not name its user, the file's name is stored as the source but is not part of the identity: a
renamed or copied log is recognised. A conversation whose turns arrive one by one is recognised by its key.
Within a session the words of the system turn are not part of the identity either: clients put the time of day
there.
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
from store.ledger.rows import first_of, parts
from store.queue.work import enqueue

ID_LENGTH = 16
"""Hex characters of a conversation's id: 64 bits."""


@dataclass(frozen=True, kw_only=True)
class Added:
    """The outcome of adding one conversation."""

    conversation_id: str
    new_turns: int
    """Turns that the ledger did not have."""
    known: bool
    """Whether the ledger had the conversation before, as it is now or shorter."""
    forgotten: bool = False
    """Whether it was passed over, because it goes through a turn that a user had removed."""


@dataclass(frozen=True, kw_only=True)
class FileState:
    """How far a file has been read."""

    path: str
    """As it is stored: see `corpus.scrub.patterns.scrub_name`."""
    format: str
    """Name of the reader."""
    identity: str
    """Digest that differs for another file that has taken the name."""
    offset: int
    """Bytes consumed, always just after a newline."""
    line: int
    """Lines consumed."""


_PASSED_OVER = Added(conversation_id="", new_turns=0, known=False, forgotten=True)


def add(connection: Connection, conversation: Conversation, path: str) -> Added:
    """Add the turns of a conversation that the ledger does not have; `path` must have been scrubbed."""
    conversation = scrub_conversation(conversation)
    if not conversation.turns:
        raise ValueError("a conversation without turns: its reader should have refused it")
    if conversation.key:
        return _add_keyed(connection, conversation, path)
    return _add_whole(connection, conversation, path)


def tombstones(conversation: Conversation) -> list[str]:
    """Return the digests by which a conversation is recognised after it was forgotten.

    They are the digest of each of its beginnings. Where its turns arrive one by one it is the digest of its
    key alone: the later turns, too, are of the conversation that a user had removed.
    """
    if conversation.key:
        return [key_tombstone(conversation.format, conversation.key)]
    return _digests(scrub_conversation(conversation))


def key_tombstone(format: str, key: str) -> str:
    """Return the digest that stands for a conversation whose turns arrive one by one."""
    return hashlib.sha256(f"key\0{format}\0{key}".encode("utf-8", "surrogatepass")).hexdigest()


def find(connection: Connection, conversation: Conversation) -> str | None:
    """Return the stored conversation that this one, logged whole, is or begins."""
    return _known(connection, _digests(scrub_conversation(conversation))[-1])


def conversation_of(connection: Connection, key: str) -> str | None:
    """Return the conversation of the turn with this key."""
    table = schema.turns
    query = select(table.c.conversation_id).where(table.c.key == key)
    conversation_id: str | None = connection.execute(query).scalar()
    return conversation_id


# ---------------------------------------------------------------- files


def file_state(connection: Connection, path: str) -> FileState | None:
    """Return how far a file has been read; None for a file that never was."""
    return first_of(connection, FileState, select(schema.files).where(schema.files.c.path == path))


def formats_of(connection: Connection) -> dict[str, str]:
    """Return the format of every file that was ever read, by path."""
    table = schema.files
    rows = connection.execute(
        select(table.c.path, table.c.format).where(table.c.format != "").order_by(table.c.path)
    )
    return {path: format for path, format in rows}


def save_file_state(connection: Connection, state: FileState) -> None:
    """Save how far a file has been read, in the transaction that saves its turns."""
    table = schema.files
    values = {"format": state.format, "identity": state.identity, "offset": state.offset, "line": state.line}
    if connection.execute(table.update().where(table.c.path == state.path).values(**values)).rowcount == 0:
        connection.execute(table.insert().values(path=state.path, **values))


def set_aside_line(connection: Connection, path: str, line: int, reason: str) -> bool:
    """Quarantine a line with the reason (line 0: the whole file); returns whether this is new."""
    table, reason = schema.set_aside_lines, scrub(reason)
    place = (table.c.path == path) & (table.c.line == line)
    if connection.execute(select(table.c.reason).where(place)).scalar() == reason:
        return False
    connection.execute(table.delete().where(place))
    connection.execute(table.insert().values(path=path, line=line, reason=reason, at=now()))
    return True


def forget_set_aside(connection: Connection, path: str) -> None:
    """Delete the quarantined lines of a file, which is about to be read from its beginning."""
    table = schema.set_aside_lines
    connection.execute(table.delete().where(table.c.path == path))


def ids_of_path(connection: Connection, path: str) -> set[str]:
    """Return the conversations that were first heard in this file."""
    table = schema.conversations
    return set(connection.execute(select(table.c.id).where(table.c.path == path)).scalars())


# ---------------------------------------------------------------- rows


def _add_whole(connection: Connection, conversation: Conversation, path: str) -> Added:
    """Add a conversation that is logged with its whole history each time."""
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
    """Add a part of a conversation whose turns arrive one by one, each with a key."""
    table = schema.conversations
    mine = (table.c.key == conversation.key) & (table.c.format == conversation.format)
    row = connection.execute(select(table.c.id, table.c.tail).where(mine)).first()
    if row is None and _is_forgotten(connection, tombstones(conversation)):
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
    """Return the digest of every prefix of a conversation that is logged whole."""
    if not conversation.session:
        return chain(conversation.source, conversation.turns)
    turns = (replace(turn, text="") if turn.role == "system" else turn for turn in conversation.turns)
    return chain(f"{conversation.source}\0{conversation.session}", tuple(turns))


def _is_forgotten(connection: Connection, digests: list[str]) -> bool:
    """Return whether a user had a turn removed that this conversation goes through."""
    t = schema.forgotten
    searches = (select(t.c.chain).where(t.c.chain.in_(part)).limit(1) for part in parts(digests))
    return any(connection.execute(search).first() is not None for search in searches)


def _known(connection: Connection, digest: str) -> str | None:
    """Return the stored conversation that has this prefix."""
    table = schema.turns
    same = select(table.c.conversation_id).where(table.c.chain == digest).order_by(table.c.id).limit(1)
    conversation_id: str | None = connection.execute(same).scalar()
    return conversation_id


def _longest_known(connection: Connection, digests: list[str]) -> tuple[str, int] | None:
    """Return the longest stored conversation that this one continues, and how many turns that has."""
    table = schema.conversations
    lengths = {digest: length for length, digest in enumerate(digests, start=1)}
    continued = [
        (row.id, lengths[row.tail])
        for part in parts(digests)
        for row in connection.execute(select(table.c.id, table.c.tail).where(table.c.tail.in_(part)))
    ]
    return max(continued, key=lambda stored: stored[1], default=None)


def _known_keys(connection: Connection, conversation_id: str, turns: Sequence[Turn]) -> Iterator[str]:
    """Yield the keys of these turns that the conversation has already."""
    table = schema.turns
    for part in parts([turn.key for turn in turns]):
        stored = (table.c.conversation_id == conversation_id) & table.c.key.in_(part)
        yield from connection.execute(select(table.c.key).where(stored)).scalars()


def _new(
    connection: Connection, conversation: Conversation, conversation_id: str, tail: str, path: str
) -> None:
    """Add the row of a conversation that was never heard before."""
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
    """Append turns to a conversation, and enqueue the work of extracting their lessons."""
    rows = [
        _row(turn, conversation_id=conversation_id, position=position, chain=digest, path=path)
        for position, (turn, digest) in enumerate(zip(turns, digests, strict=True), start=start)
    ]
    connection.execute(schema.turns.insert(), rows)
    enqueue(connection, "extract", f"{conversation_id}:{start + len(turns)}")


def _row(turn: Turn, **place: Any) -> dict[str, Any]:
    """Return the row of one turn."""
    time = turn.time.astimezone(UTC).isoformat(timespec="milliseconds") if turn.time else None
    spoken = {"role": turn.role, "text": turn.text, "rating": turn.rating, "edited": turn.edited}
    return {**place, **spoken, "key": turn.key, "time": time, "line": turn.line}


def _count(connection: Connection, conversation_id: str) -> int:
    """Count the turns of a conversation."""
    mine = schema.turns.c.conversation_id == conversation_id
    return int(connection.execute(select(func.count()).select_from(schema.turns).where(mine)).scalar() or 0)
