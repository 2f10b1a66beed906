"""Everything that was derived from some conversations: the rows that forgetting them deletes or changes.

Invariant: this module only reads. A row counts as derived when it would not exist without these
conversations. A row with other support stays, without the share that they gave it. Where the rows cannot tell
(a dream without an episode, of the same source), the row counts as derived: forgetting takes too much rather
than too little. This module knows nothing about files or commands.
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
"""Characters of the shortest turn that is searched for in errors; shorter ones would match everywhere."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class Member:
    """A deleted pair, as a part of an update."""

    update_id: str
    pair_id: str
    replay: bool
    unlearnt: bool
    night_id: str
    behaviour: str


@dataclass(frozen=True, kw_only=True)
class Derived:
    """Ids of the rows to delete, by table, and what else follows."""

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
    """Work that stays, whose error quotes a deleted turn or names a deleted row."""
    events: tuple[int, ...]
    tombstones: frozenset[str]
    """Digests by which an ingest recognises them: see `store.conversations.conversations.tombstones`."""
    alike: tuple[str, ...]
    """Conversations that stay although they begin with the same turns."""
    places: dict[str, tuple[int, ...]]
    """The lines from which the turns came, by file."""
    formats: dict[str, str]
    """The format of each of these files."""

    def counts(self) -> dict[str, int]:
        """Count the rows to delete, by table, beside the conversations themselves."""
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
    """Return everything that was derived from these conversations."""
    ids = tuple(sorted(conversation_ids))
    heard = among(connection, StoredConversation, schema.conversations, "id", ids)
    turns = among(connection, StoredTurn, schema.turns, "conversation_id", ids)
    signals = among(connection, Signal, schema.signals, "conversation_id", ids)
    graph = lost_graph(connection, ids, {signal.id: signal.strength for signal in signals})
    dreams = _dreams(connection, graph.nodes, {conversation.source for conversation in heard})
    attempts = tuple(row.id for row in among(connection, Attempt, schema.attempts, "dream_id", dreams))
    pairs = _pairs(connection, ids, dreams, [signal.id for signal in signals])
    named = {*ids, *(signal.id for signal in signals), *dreams, *attempts, *pairs, *graph.nodes}
    mentions = _Mentions(frozenset(named), [turn.text for turn in turns])
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
    """Return the dreams that grew from deleted nodes, or from these sources and no episode."""
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
    """Return the pairs of these dreams and signals, and those straight from a log of these conversations."""
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
    """Return the parts that these pairs have in updates."""
    return tuple(
        extend(Member, row, night_id=pairs[row.pair_id].night_id, behaviour=pairs[row.pair_id].behaviour)
        for row in among(connection, UpdatePair, schema.update_pairs, "pair_id", pairs)
    )


# ---------------------------------------------------------------- work and events


@dataclass(frozen=True)
class _Mentions:
    """A search for the deleted rows in texts, by id and by quotation."""

    ids: frozenset[str]
    texts: list[str]

    def named(self, *values: Any) -> bool:
        """Return whether one of the ids is in these values."""
        return any(
            not self.ids.isdisjoint(_WORD.findall(text)) for value in values for text in _strings(value)
        )

    def quoted(self, *values: Any) -> bool:
        """Return whether one of the turns is in these values, or one of the ids."""
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
    """Return the work on these conversations, and other work whose error mentions them."""
    w = schema.work
    query = select(w.c.id, w.c.kind, w.c.subject, w.c.error)
    query = query.where((w.c.kind == "extract") | w.c.error.is_not(None)).order_by(w.c.id)
    rows = connection.execute(query).all()
    mine = {row.id for row in rows if row.kind == "extract" and row.subject.rpartition(":")[0] in ids}
    quoting = tuple(row.id for row in rows if row.id not in mine and mentions.quoted(row.error))
    return tuple(sorted(mine)), quoting


def _events(connection: Connection, mentions: _Mentions) -> tuple[int, ...]:
    """Return the events that name a deleted row, and the failures that quote one."""
    e = schema.events
    return tuple(
        row.seq
        for row in connection.execute(select(e).order_by(e.c.seq))
        if (mentions.quoted if row.kind == "failure" else mentions.named)(row.subject, row.body)
    )


# ---------------------------------------------------------------- tombstones


def _tombstones(heard: Iterable[StoredConversation], turns: Iterable[StoredTurn]) -> set[str]:
    """Return the digests by which an ingest recognises these conversations.

    Prefixes of system turns alone do not count: every other conversation of the same user has them.
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
    """Return the tombstones that conversations which stay share, each with those conversations."""
    shared = defaultdict[str, set[str]](set)
    for turn in among(connection, StoredTurn, schema.turns, "chain", tombstones):
        if turn.conversation_id not in ids:
            shared[turn.chain].add(turn.conversation_id)
    return dict(shared)
