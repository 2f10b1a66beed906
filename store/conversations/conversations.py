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
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, select

from corpus.conversation import Conversation, Turn, chain
from corpus.json_edge import to_json
from corpus.scrub.patterns import Clean, scrub, scrub_conversation
from store.conversations.privacy import cleaner
from store.conversations.rows import conversation_row, turn_row, with_new_tools
from store.ledger import schema
from store.ledger.rows import parts
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


_PASSED_OVER = Added(conversation_id="", new_turns=0, known=False, forgotten=True)


def add(connection: Connection, conversation: Conversation, path: str) -> Added:
    """Add those turns of a conversation that the ledger does not have yet; return what was added.

    Args:
        connection: The ledger, in a transaction that writes.
        conversation: The conversation as its reader returned it; secrets are removed here.
        path: Path of its log, from which secrets were removed already.
    """
    return add_scrubbed(connection, scrub_conversation(conversation, cleaner(connection)), path)


def add_scrubbed(connection: Connection, conversation: Conversation, path: str) -> Added:
    """Add a conversation from which secrets were removed already; see `add`."""
    if not conversation.turns:
        raise ValueError("a conversation without turns: its reader should have refused it")
    if conversation.key:
        return _add_keyed(connection, conversation, path)
    return _add_whole(connection, conversation, path)


def tombstones(conversation: Conversation, clean: Clean = scrub) -> list[str]:
    """Return the digests by which a conversation is recognised after it was forgotten.

    They are the digests of all its prefixes. If its turns arrive one by one, the only digest is that of its
    key, so that later turns of the forgotten conversation are recognised too.

    Args:
        conversation: The conversation.
        clean: Removes from a text what the home does not store.
    """
    if conversation.key:
        return [key_tombstone(conversation.format, conversation.key)]
    return digests_of(scrub_conversation(conversation, clean))


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
    return _known(connection, digests_of(scrub_conversation(conversation, cleaner(connection)))[-1])


def conversation_of(connection: Connection, key: str) -> str | None:
    """Return the id of the conversation that has the turn with this key; None without one."""
    table = schema.turns
    query = select(table.c.conversation_id).where(table.c.key == key)
    conversation_id: str | None = connection.execute(query).scalar()
    return conversation_id


# ---------------------------------------------------------------- rows


def _add_whole(connection: Connection, conversation: Conversation, path: str) -> Added:
    """Add a conversation whose log repeats the whole history each time; return what was added."""
    turns = conversation.turns
    digests = digests_of(conversation)
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
    """Add a conversation whose turns have the log's own ids; return what was added.

    A copy under another key (a session that was resumed or forked) is recognised by its first turn. Where the
    turns differ from those that are stored, from some turn on, a new conversation holds the new branch.
    """
    key, turns = conversation.key, conversation.turns
    row = _keyed_row(connection, conversation.format, key)
    if row is None and _is_forgotten(connection, tombstones(conversation)):
        return _PASSED_OVER
    if row is None:
        row = _copied_row(connection, conversation)
    stored = _stored_turns(connection, row.id) if row is not None else []
    shared = _shared(stored, turns)
    if row is not None and shared == len(turns):
        _complete(connection, conversation, row, stored, shared)
        return Added(conversation_id=row.id, new_turns=0, known=True)
    if row is not None and shared < len(stored):
        branch = key if row.key != key else f"{key}#{turns[shared].key}"
        if branch != key and _keyed_row(connection, conversation.format, branch) is not None:
            return _add_keyed(connection, replace(conversation, key=branch), path)
        conversation = replace(conversation, key=branch, copied=max(shared, conversation.copied))
        row, shared = None, 0
    if row is not None:
        tail = _complete(connection, conversation, row, stored, shared)
        digests = chain("", turns[shared:], tail=tail)
        _grow(connection, row.id, digests[-1])
        _append(connection, row.id, len(stored), turns[shared:], digests, path)
        return Added(conversation_id=row.id, new_turns=len(turns) - shared, known=True)
    digests = chain(_root(conversation), turns)
    # The id is made of the first turn alone, so that it does not depend on how many turns arrive together.
    conversation_id = digests[0][:ID_LENGTH]
    _new(connection, conversation, conversation_id, digests[-1], path)
    _append(connection, conversation_id, 0, turns, digests, path)
    return Added(conversation_id=conversation_id, new_turns=len(turns), known=False)


def _root(conversation: Conversation) -> str:
    """Return the text from which the digests of a conversation with a key start."""
    return f"{conversation.format}\0{conversation.source}\0{conversation.key}"


def _keyed_row(connection: Connection, format: str, key: str) -> Any:
    """Return id, key and tail of the conversation with this key; None without one."""
    t = schema.conversations
    query = select(t.c.id, t.c.key, t.c.tail).where((t.c.key == key) & (t.c.format == format))
    return connection.execute(query).first()


def _copied_row(connection: Connection, conversation: Conversation) -> Any:
    """Return id, key and tail of the conversation of which this is a copy or a fork; None without one.

    It is the one of the same format that begins with the same turn and has most of its turns.
    """
    c, t = schema.conversations, schema.turns
    first = conversation.turns[0].key
    if not first:
        return None
    query = (
        select(c.c.id, c.c.key, c.c.tail)
        .join(t, t.c.conversation_id == c.c.id)
        .where((t.c.key == first) & (t.c.position == 0) & (c.c.format == conversation.format))
        .order_by(t.c.id)
    )
    rows = connection.execute(query).all()
    shared = [_shared(_stored_turns(connection, row.id), conversation.turns) for row in rows]
    return max(zip(shared, rows, strict=True), key=lambda pair: pair[0], default=(0, None))[1]


def _stored_turns(connection: Connection, conversation_id: str) -> list[Any]:
    """Return id, key, text and digest of the stored turns of a conversation, in order."""
    t = schema.turns
    query = select(t.c.id, t.c.key, t.c.text, t.c.chain).where(t.c.conversation_id == conversation_id)
    return list(connection.execute(query.order_by(t.c.position)))


def _shared(stored: Sequence[Any], turns: Sequence[Turn]) -> int:
    """Return the number of leading turns whose keys are the same."""
    pairs = zip(stored, turns, strict=False)
    most = min(len(stored), len(turns))
    return next((index for index, (row, turn) in enumerate(pairs) if row.key != turn.key), most)


def _complete(
    connection: Connection, conversation: Conversation, row: Any, stored: Sequence[Any], shared: int
) -> str:
    """Replace the text of the last stored turn if it was still being written then; return the new tail."""
    turn = conversation.turns[shared - 1]
    if not shared or shared < len(stored) or stored[-1].text == turn.text or turn.role != "assistant":
        return str(row.tail)
    before = stored[-2].chain if len(stored) > 1 else ""
    digest = chain(_root(conversation), (turn,), tail=before)[-1]
    table = schema.turns
    values = {"text": turn.text, "chain": digest, "structure": to_json(turn.structure)}
    connection.execute(table.update().where(table.c.id == stored[-1].id).values(**values))
    _grow(connection, row.id, digest)
    return digest


def digests_of(conversation: Conversation) -> list[str]:
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


def _new(
    connection: Connection, conversation: Conversation, conversation_id: str, tail: str, path: str
) -> None:
    """Add the row of a new conversation."""
    row = conversation_row(conversation, conversation_id, tail, path)
    connection.execute(schema.conversations.insert().values(**row))


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
    offered = (
        _stored_tools(connection, conversation_id) if any(turn.tools is not None for turn in turns) else ()
    )
    rows = [
        turn_row(turn, conversation_id, position, digest, path)
        for position, (turn, digest) in enumerate(
            zip(with_new_tools(offered, turns), digests, strict=True), start=start
        )
    ]
    connection.execute(schema.turns.insert(), rows)
    enqueue(connection, "extract", f"{conversation_id}:{start + len(turns)}")


def _stored_tools(connection: Connection, conversation_id: str) -> tuple[Any, ...]:
    """Return the tools that the last stored turn of a conversation offers."""
    t = schema.turns.c
    mine = (t.conversation_id == conversation_id) & t.tools.is_not(None)
    last = connection.execute(select(t.tools).where(mine).order_by(t.position.desc()).limit(1)).scalar()
    return tuple(last or ())
