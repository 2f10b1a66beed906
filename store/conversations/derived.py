"""Everything that was derived from some conversations: the rows that are deleted or changed to forget them.

Invariant: this module only reads. A row counts as derived if it would not exist without these conversations.
A row that other conversations support too stays, without the part that these conversations gave it. A row
also counts as derived if its origin is uncertain (a dream of the same source without an episode): it is
better to forget too much than too little. This module knows nothing about files or commands.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, or_, select

from store.conversations.conversations import key_tombstone
from store.conversations.derived_nodes import LostGraph, lost_graph
from store.ledger import schema
from store.ledger.records import Attempt, Pair, Signal, StoredConversation, StoredTurn, UpdatePair, extend
from store.ledger.rows import all_of, among

SHORTEST_QUOTE = 12
"""Shortest turn, in characters, that is searched for in error texts; a shorter one would match everywhere."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class Member:
    """A pair to delete, as a part of an update that trained on it."""

    update_id: str
    pair_id: str
    replay: bool
    unlearnt: bool
    night_id: str
    behaviour: str


@dataclass(frozen=True, kw_only=True)
class Derived:
    """The rows that are deleted or changed when some conversations are forgotten; most fields hold ids."""

    conversations: tuple[str, ...]
    turns: tuple[int, ...]
    signals: tuple[str, ...]
    graph: LostGraph
    dreams: tuple[str, ...]
    attempts: tuple[str, ...]
    pairs: tuple[str, ...]
    members: tuple[Member, ...]
    work: tuple[int, ...]
    errors: tuple[int, ...]
    """Work that stays, but whose error text is replaced: it quotes a deleted turn or names a deleted row."""
    events: tuple[int, ...]
    tombstones: frozenset[str]
    """Digests by which these conversations are recognised: see `conversations.tombstones`."""
    alike: tuple[str, ...]
    """Conversations that stay although they begin with the same turns."""
    places: dict[str, tuple[int, ...]]
    """Numbers of the lines that held the turns, by the path of the log."""
    formats: dict[str, str]
    """The format of each of these logs, by path."""

    def counts(self) -> dict[str, int]:
        """Return the number of rows to delete, by table, without the rows of the conversations themselves."""
        return {
            "turns": len(self.turns),
            "signals": len(self.signals),
            "nodes": len(self.graph.nodes),
            "edges": len(self.graph.edges),
            "dreams": len(self.dreams),
            "attempts": len(self.attempts),
            "pairs": len(self.pairs),
            "update_pairs": len(self.members),
            "work": len(self.work),
            "events": len(self.events),
        }


def gather(connection: Connection, conversation_ids: Iterable[str]) -> Derived:
    """Return everything that was derived from the conversations with these ids."""
    ids = tuple(sorted(conversation_ids))
    heard = among(connection, StoredConversation, schema.conversations, "id", ids)
    turns = among(connection, StoredTurn, schema.turns, "conversation_id", ids)
    signals = among(connection, Signal, schema.signals, "conversation_id", ids)
    graph = lost_graph(connection, ids, {signal.id: signal.strength for signal in signals})
    dreams = _dreams(connection, graph.nodes, {conversation.source for conversation in heard})
    attempts = tuple(row.id for row in among(connection, Attempt, schema.attempts, "dream_id", dreams))
    pairs = _pairs(connection, ids, dreams, [signal.id for signal in signals])
    named = {*ids, *(signal.id for signal in signals), *dreams, *attempts, *pairs, *graph.nodes}
    contents = [turn.structure["content"] for turn in turns if turn.structure]
    mentions = _Mentions(frozenset(named), [*(turn.text for turn in turns), *contents])
    tombstones = _tombstones(heard, turns)
    shared = _shared(connection, ids, tombstones)
    formats = {conversation.id: conversation.format for conversation in heard}
    places = defaultdict[str, set[int]](set)
    for turn in turns:
        places[turn.path].add(turn.line)
    work, errors = _work(connection, ids, mentions)
    return Derived(
        conversations=ids,
        turns=tuple(turn.id for turn in turns),
        signals=tuple(signal.id for signal in signals),
        graph=graph,
        dreams=dreams,
        attempts=attempts,
        pairs=tuple(pairs),
        members=_members(connection, pairs),
        work=work,
        errors=errors,
        events=_events(connection, mentions),
        tombstones=frozenset(tombstones - shared.keys()),
        alike=tuple(sorted(set().union(*shared.values()))),
        places={path: tuple(sorted(lines)) for path, lines in sorted(places.items())},
        formats={turn.path: formats[turn.conversation_id] for turn in turns},
    )


# ---------------------------------------------------------------- dreams and pairs


def _dreams(connection: Connection, nodes: frozenset[str], sources: Collection[str]) -> tuple[str, ...]:
    """Return the ids of the dreams that were derived from deleted nodes or from deleted conversations.

    Args:
        connection: The ledger.
        nodes: Ids of the deleted nodes; a dream that grew from one of them is derived.
        sources: Sources of the deleted conversations; a dream of one of them that grew from no episode counts
            as derived too.
    """
    d, n = schema.dreams, schema.nodes
    episodes = set(connection.execute(select(n.c.id).where(n.c.kind == "episode")).scalars())
    query = select(d.c.id, d.c.nodes, d.c.source).order_by(d.c.id)
    return tuple(
        row.id
        for row in connection.execute(query)
        if not nodes.isdisjoint(row.nodes) or (row.source in sources and episodes.isdisjoint(row.nodes))
    )


def _pairs(
    connection: Connection, ids: Iterable[str], dreams: Iterable[str], signals: Iterable[str]
) -> dict[str, Pair]:
    """Return, by id, the pairs of these dreams and signals and the pairs made of logged answers.

    Args:
        connection: The ledger.
        ids: The conversations; a pair with an answer from one of their logs is included.
        dreams: Ids of the dreams.
        signals: Ids of the signals.
    """
    p = schema.pairs
    pairs = among(connection, Pair, p, "dream_id", dreams) + among(connection, Pair, p, "signal_id", signals)
    for conversation_id in ids:
        ends = (
            side.startswith(f"log:{conversation_id}:", autoescape=True)
            for side in (p.c.chosen_from, p.c.rejected_from)
        )
        pairs += all_of(connection, Pair, select(p).where(or_(*ends)))
    return {pair.id: pair for pair in sorted(pairs, key=lambda pair: pair.id)}


def _members(connection: Connection, pairs: Mapping[str, Pair]) -> tuple[Member, ...]:
    """Return one member for each update and each of these pairs that the update trained on."""
    return tuple(
        extend(Member, row, night_id=pairs[row.pair_id].night_id, behaviour=pairs[row.pair_id].behaviour)
        for row in among(connection, UpdatePair, schema.update_pairs, "pair_id", pairs)
    )


# ---------------------------------------------------------------- work and events


@dataclass(frozen=True)
class _Mentions:
    """A search of texts for the ids of deleted rows and for quotations of deleted turns."""

    ids: frozenset[str]
    texts: list[str]

    def named(self, *values: Any) -> bool:
        """Return whether one of the ids occurs in the texts of these JSON values."""
        return any(
            not self.ids.isdisjoint(_WORD.findall(text)) for value in values for text in _strings(value)
        )

    def quoted(self, *values: Any) -> bool:
        """Return whether the text of a turn, or one of the ids, occurs in the texts of these JSON values."""
        strings = [text for value in values for text in _strings(value)]
        quotes = [text for text in self.texts if len(text) >= SHORTEST_QUOTE]
        return self.named(*values) or any(quote in text for text in strings for quote in quotes)


def _strings(value: Any) -> Iterator[str]:
    """Yield every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for part in value.values() for text in _strings(part))
    elif isinstance(value, list):
        yield from (text for part in value for text in _strings(part))


def _work(
    connection: Connection, ids: Collection[str], mentions: _Mentions
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids of the work on these conversations, and of other work whose error mentions them."""
    w = schema.work
    query = select(w.c.id, w.c.kind, w.c.subject, w.c.error)
    query = query.where((w.c.kind == "extract") | w.c.error.is_not(None)).order_by(w.c.id)
    rows = connection.execute(query).all()
    mine = {row.id for row in rows if row.kind == "extract" and row.subject.rpartition(":")[0] in ids}
    quoting = tuple(row.id for row in rows if row.id not in mine and mentions.quoted(row.error))
    return tuple(sorted(mine)), quoting


def _events(connection: Connection, mentions: _Mentions) -> tuple[int, ...]:
    """Return the numbers of the events that name a deleted row, and of the failures that quote a turn."""
    e = schema.events
    return tuple(
        row.seq
        for row in connection.execute(select(e).order_by(e.c.seq))
        if (mentions.quoted if row.kind == "failure" else mentions.named)(row.subject, row.body)
    )


# ---------------------------------------------------------------- tombstones


def _tombstones(heard: Iterable[StoredConversation], turns: Iterable[StoredTurn]) -> set[str]:
    """Return the digests by which an ingest recognises these conversations.

    A prefix that has only system turns is left out, because all conversations of the same user may begin with
    these turns.
    """
    by_conversation = defaultdict[str, list[StoredTurn]](list)
    for turn in sorted(turns, key=lambda turn: turn.position):
        by_conversation[turn.conversation_id].append(turn)
    keyed = (conversation for conversation in heard if conversation.key)
    tombstones = {key_tombstone(conversation.format, conversation.key) for conversation in keyed}
    for own in by_conversation.values():
        begins = next((index for index, turn in enumerate(own) if turn.role != "system"), 0)
        tombstones |= {turn.chain for turn in own[begins:]}
    return tombstones


def _shared(connection: Connection, ids: Collection[str], tombstones: Iterable[str]) -> dict[str, set[str]]:
    """Return the tombstones that would also match conversations that stay, with these conversations' ids."""
    shared = defaultdict[str, set[str]](set)
    for turn in among(connection, StoredTurn, schema.turns, "chain", tombstones):
        if turn.conversation_id not in ids:
            shared[turn.chain].add(turn.conversation_id)
    return dict(shared)
