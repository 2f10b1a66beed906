"""Conversations in the ledger: new ones are added, known ones are recognised, and grown ones are continued.

Invariant: secrets are removed before a row is written. The same turns twice are one conversation. For every
new or grown conversation an `extract` is added to the work queue, committed with the turns. Ids depend on the
texts and the user, never on a path, so two homes that read the same log give the same ids. A conversation
that contains a forgotten turn is not added. This module knows nothing about formats, and opens no file.

If a log does not name its user, the file's name is stored as the source, but is not part of the identity: a
renamed or copied log is recognised. A conversation whose turns arrive one by one is recognised by its key.
Within a session the text of the system turn is not part of the identity, because clients put the time of day
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
from corpus.json_edge import to_json
from corpus.scrub.patterns import scrub, scrub_conversation
from store.ledger import schema
from store.ledger.db import now
from store.ledger.rows import first_of, parts
from store.queue.work import enqueue

ID_LENGTH = 16
"""Number of hexadecimal characters in a conversation's id: 64 bits."""


@dataclass(frozen=True, kw_only=True)
class Added:
    """The result of adding one conversation."""

    conversation_id: str
    new_turns: int
    """Number of turns that the ledger did not have before."""
    known: bool
    """Whether the ledger had the conversation, or its beginning, before."""
    forgotten: bool = False
    """Whether the conversation was not added, because it contains a turn that a user has forgotten."""


@dataclass(frozen=True, kw_only=True)
class FileState:
    """How far a log file has been read."""

    path: str
    """The path without secrets: see `corpus.scrub.patterns.scrub_name`."""
    format: str
    """Name of the log format."""
    identity: str
    """Identity of the file; it changes when another file takes the same name."""
    offset: int
    """Number of bytes that were read; it is always just after a newline."""
    line: int
    """Number of lines that were read."""


_PASSED_OVER = Added(conversation_id="", new_turns=0, known=False, forgotten=True)


def add(connection: Connection, conversation: Conversation, path: str) -> Added:
    """Add those turns of a conversation that the ledger does not have yet; return what was added.

    Args:
        connection: The ledger, in a transaction that writes.
        conversation: The conversation as its reader returned it; secrets are removed here.
        path: Path of its log, from which secrets were removed already.
    """
    conversation = scrub_conversation(conversation)
    if not conversation.turns:
        raise ValueError("a conversation without turns: its reader should have refused it")
    if conversation.key:
        return _add_keyed(connection, conversation, path)
    return _add_whole(connection, conversation, path)


def tombstones(conversation: Conversation) -> list[str]:
    """Return the digests by which a conversation is recognised after it was forgotten.

    They are the digests of all its prefixes. If its turns arrive one by one, the only digest is that of its
    key, so that later turns of the forgotten conversation are recognised too.
    """
    if conversation.key:
        return [key_tombstone(conversation.format, conversation.key)]
    return _digests(scrub_conversation(conversation))


def key_tombstone(format: str, key: str) -> str:
    """Return the tombstone of a conversation whose turns arrive one by one.

    Args:
        format: Name of the log format.
        key: The conversation's key.
    """
    return hashlib.sha256(f"key\0{format}\0{key}".encode("utf-8", "surrogatepass")).hexdigest()


def find(connection: Connection, conversation: Conversation) -> str | None:
    """Return the id of the stored conversation that equals this one or begins with it; None without one.

    Args:
        connection: The ledger.
        conversation: A conversation without a key.
    """
    return _known(connection, _digests(scrub_conversation(conversation))[-1])


def conversation_of(connection: Connection, key: str) -> str | None:
    """Return the id of the conversation that has the turn with this key; None without one."""
    table = schema.turns
    query = select(table.c.conversation_id).where(table.c.key == key)
    conversation_id: str | None = connection.execute(query).scalar()
    return conversation_id


# ---------------------------------------------------------------- files


def file_state(connection: Connection, path: str) -> FileState | None:
    """Return how far a file has been read; None for a file that was never read."""
    return first_of(connection, FileState, select(schema.files).where(schema.files.c.path == path))


def formats_of(connection: Connection) -> dict[str, str]:
    """Return the name of the format of every file that was ever read, by path."""
    table = schema.files
    rows = connection.execute(
        select(table.c.path, table.c.format).where(table.c.format != "").order_by(table.c.path)
    )
    return {path: format for path, format in rows}


def save_file_state(connection: Connection, state: FileState) -> None:
    """Save how far a file has been read; call it in the transaction that saves the file's turns."""
    table = schema.files
    values = {"format": state.format, "identity": state.identity, "offset": state.offset, "line": state.line}
    if connection.execute(table.update().where(table.c.path == state.path).values(**values)).rowcount == 0:
        connection.execute(table.insert().values(path=state.path, **values))


def set_aside_line(connection: Connection, path: str, line: int, reason: str) -> bool:
    """Quarantine a line with the reason; return whether it was not quarantined for this reason before.

    Args:
        connection: The ledger, in a transaction that writes.
        path: Path of the log.
        line: Number of the line from 1; 0 for the whole file.
        reason: Why the line cannot be used; secrets are removed from it here.
    """
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
    """Return the ids of the conversations that were first read from this file."""
    table = schema.conversations
    return set(connection.execute(select(table.c.id).where(table.c.path == path)).scalars())


# ---------------------------------------------------------------- rows


def _add_whole(connection: Connection, conversation: Conversation, path: str) -> Added:
    """Add a conversation whose log repeats the whole history each time; return what was added."""
    turns = conversation.turns
    digests = _digests(conversation)
    known = _known(connection, digests[-1])
    if known is not None:  # the ledger has this conversation, or a longer one that begins with it
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
    """Add a part of a conversation whose turns arrive one by one, each with a key; return what was added."""
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
    # The id is made of the first turn alone, so that it does not depend on how many turns arrive together.
    conversation_id = row.id if row else digests[0][:ID_LENGTH]
    if row is None:
        _new(connection, conversation, conversation_id, digests[-1], path)
    elif fresh:
        _grow(connection, conversation_id, digests[-1])
    if fresh:
        start = _count(connection, conversation_id) if row else 0
        _append(connection, conversation_id, start, fresh, digests, path)
    return Added(conversation_id=conversation_id, new_turns=len(fresh), known=row is not None)


def _digests(conversation: Conversation) -> list[str]:
    """Return the digest of every prefix of a conversation without a key, the shortest prefix first."""
    if not conversation.session:
        return chain(conversation.source, conversation.turns)
    turns = (replace(turn, text="") if turn.role == "system" else turn for turn in conversation.turns)
    return chain(f"{conversation.source}\0{conversation.session}", tuple(turns))


def _is_forgotten(connection: Connection, digests: list[str]) -> bool:
    """Return whether one of these digests is the tombstone of a forgotten turn."""
    t = schema.forgotten
    searches = (select(t.c.chain).where(t.c.chain.in_(part)).limit(1) for part in parts(digests))
    return any(connection.execute(search).first() is not None for search in searches)


def _known(connection: Connection, digest: str) -> str | None:
    """Return the id of the stored conversation that has the prefix with this digest; None without one."""
    table = schema.turns
    same = select(table.c.conversation_id).where(table.c.chain == digest).order_by(table.c.id).limit(1)
    conversation_id: str | None = connection.execute(same).scalar()
    return conversation_id


def _longest_known(connection: Connection, digests: list[str]) -> tuple[str, int] | None:
    """Return the longest stored conversation that this one continues: its id and its number of turns.

    Args:
        connection: The ledger.
        digests: The digests of this conversation's prefixes.

    Returns:
        None if it continues no stored conversation.
    """
    table = schema.conversations
    lengths = {digest: length for length, digest in enumerate(digests, start=1)}
    continued = [
        (row.id, lengths[row.tail])
        for part in parts(digests)
        for row in connection.execute(select(table.c.id, table.c.tail).where(table.c.tail.in_(part)))
    ]
    return max(continued, key=lambda stored: stored[1], default=None)


def _known_keys(connection: Connection, conversation_id: str, turns: Sequence[Turn]) -> Iterator[str]:
    """Yield the keys of the turns in `turns` that the stored conversation has already."""
    table = schema.turns
    for part in parts([turn.key for turn in turns]):
        stored = (table.c.conversation_id == conversation_id) & table.c.key.in_(part)
        yield from connection.execute(select(table.c.key).where(stored)).scalars()


def _new(
    connection: Connection, conversation: Conversation, conversation_id: str, tail: str, path: str
) -> None:
    """Add the row of a new conversation."""
    key = conversation.key or conversation.session
    row = {"id": conversation_id, "format": conversation.format, "key": key, "tail": tail}
    source = conversation.source or PurePath(path).name
    connection.execute(schema.conversations.insert().values(**row, source=source, path=path, at=now()))


def _grow(connection: Connection, conversation_id: str, tail: str) -> None:
    """Store the new tail of a conversation: the digest of all its turns."""
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
    """Append turns to a conversation, and enqueue the work that extracts their lessons.

    Args:
        connection: The ledger, in a transaction that writes.
        conversation_id: The conversation.
        start: Position of the first of these turns, from 0.
        turns: The turns.
        digests: The digest of the conversation up to each of these turns.
        path: Path of the log.
    """
    rows = [
        _row(turn, conversation_id=conversation_id, position=position, chain=digest, path=path)
        for position, (turn, digest) in enumerate(
            zip(_with_new_tools(connection, conversation_id, turns), digests, strict=True), start=start
        )
    ]
    connection.execute(schema.turns.insert(), rows)
    enqueue(connection, "extract", f"{conversation_id}:{start + len(turns)}")


def _with_new_tools(connection: Connection, conversation_id: str, turns: Sequence[Turn]) -> Iterator[Turn]:
    """Yield the turns; one that offers the same tools as the turn before names none, which means the same."""
    if all(turn.tools is None for turn in turns):
        yield from turns
        return
    t = schema.turns.c
    mine = (t.conversation_id == conversation_id) & t.tools.is_not(None)
    last = connection.execute(select(t.tools).where(mine).order_by(t.position.desc()).limit(1)).scalar()
    offered = tuple(last or ())
    for turn in turns:
        same = turn.tools is None or turn.tools == offered
        offered = offered if turn.tools is None else turn.tools
        yield replace(turn, tools=None) if same else turn


def _row(turn: Turn, **place: Any) -> dict[str, Any]:
    """Return the row of one turn, by column; `place` has the columns that the turn itself does not give."""
    time = turn.time.astimezone(UTC).isoformat(timespec="milliseconds") if turn.time else None
    spoken = {"role": turn.role, "text": turn.text, "rating": turn.rating, "edited": turn.edited}
    shape = {"structure": to_json(turn.structure), "tools": to_json(turn.tools)}
    return {**place, **spoken, **shape, "key": turn.key, "time": time, "line": turn.line}


def _count(connection: Connection, conversation_id: str) -> int:
    """Return the number of stored turns of a conversation."""
    mine = schema.turns.c.conversation_id == conversation_id
    return int(connection.execute(select(func.count()).select_from(schema.turns).where(mine)).scalar() or 0)
