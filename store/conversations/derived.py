"""What was derived from some conversations: the rows that forgetting them removes, and those that it changes.

Invariant: reads only. A row belongs to what was derived when it cannot be without these conversations: what has
other support stays, with what they gave it taken off. Where the rows cannot tell (a dream without an episode, of
the same source) it counts as derived: forgetting rather takes too much. Knows neither files nor commands.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, or_, select

from store.conversations.conversations import key_mark
from store.conversations.derived_nodes import Lost, lost
from store.ledger import schema
from store.ledger.rows import among, rows_of

SHORTEST_QUOTE = 12
"""Characters of a turn that are looked for in errors and notes; less would be found everywhere."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class Member:
    """A pair that goes, as a part of an update."""

    update_id: str
    pair_id: str
    replay: bool
    unlearnt: bool
    night_id: str
    behaviour: str


@dataclass(frozen=True, kw_only=True)
class Derived:
    """Ids of the rows that go, by table, and what else follows."""

    conversations: tuple[str, ...]
    turns: tuple[int, ...]
    signals: tuple[str, ...]
    graph: Lost
    dreams: tuple[str, ...]
    attempts: tuple[str, ...]
    pairs: tuple[str, ...]
    members: tuple[Member, ...]
    work: tuple[int, ...]
    errors: tuple[int, ...]
    """Work that stays, whose error mentions what goes."""
    events: tuple[int, ...]
    marks: frozenset[str]
    """By what an ingest knows them again: see `store.conversations.conversations.marks`."""
    alike: tuple[str, ...]
    """Conversations that stay and begin with the same turns."""
    places: dict[str, tuple[int, ...]]
    """The lines from which the turns came, by file."""
    formats: dict[str, str]
    """The format of each of these files."""

    def counts(self) -> dict[str, int]:
        """How many rows go, by table."""
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
    """Everything that was derived from these conversations."""
    ids = tuple(sorted(conversation_ids))
    heard = among(connection, schema.conversations, "id", ids)
    turns = among(connection, schema.turns, "conversation_id", ids)
    signals = among(connection, schema.signals, "conversation_id", ids)
    graph = lost(connection, ids, {row["id"]: float(row["strength"]) for row in signals})
    dreams = _dreams(connection, graph.nodes, {row["source"] for row in heard})
    attempts = tuple(row["id"] for row in among(connection, schema.attempts, "dream_id", dreams))
    pairs = _pairs(connection, ids, dreams, [row["id"] for row in signals])
    named = {*ids, *(row["id"] for row in signals), *dreams, *attempts, *pairs, *graph.nodes}
    told = _Mentions(frozenset(named), [row["text"] for row in turns])
    marks = _marks(heard, turns)
    shared = _shared(connection, ids, marks)
    formats = {row["id"]: row["format"] for row in heard}
    places = defaultdict[str, set[int]](set)
    for row in turns:
        places[row["path"]].add(row["line"])
    work, errors = _work(connection, ids, told)
    return Derived(
        conversations=ids,
        turns=tuple(row["id"] for row in turns),
        signals=tuple(row["id"] for row in signals),
        graph=graph,
        dreams=dreams,
        attempts=attempts,
        pairs=tuple(pairs),
        members=_members(connection, pairs),
        work=work,
        errors=errors,
        events=_events(connection, told),
        marks=frozenset(marks - shared.keys()),
        alike=tuple(sorted(set().union(*shared.values()))),
        places={path: tuple(sorted(lines)) for path, lines in sorted(places.items())},
        formats={row["path"]: formats[row["conversation_id"]] for row in turns},
    )


# ---------------------------------------------------------------- dreams and pairs


def _dreams(connection: Connection, nodes: frozenset[str], sources: Collection[str]) -> tuple[str, ...]:
    """The dreams that grew from nodes that go, and those of these sources that name no episode at all."""
    d, n = schema.dreams, schema.nodes
    episodes = set(connection.execute(select(n.c.id).where(n.c.kind == "episode")).scalars())
    query = select(d.c.id, d.c.nodes, d.c.source).order_by(d.c.id)
    return tuple(
        row["id"]
        for row in rows_of(connection, query)
        if not nodes.isdisjoint(row["nodes"])
        or (row["source"] in sources and episodes.isdisjoint(row["nodes"]))
    )


def _pairs(
    connection: Connection, ids: Iterable[str], dreams: Iterable[str], signals: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """The pairs of these dreams and signals, and those straight from a log of these conversations, by id."""
    p = schema.pairs
    found = among(connection, p, "dream_id", dreams) + among(connection, p, "signal_id", signals)
    for conversation_id in ids:
        ends = (
            side.startswith(f"log:{conversation_id}:", autoescape=True)
            for side in (p.c.chosen_from, p.c.rejected_from)
        )
        found += rows_of(connection, select(p).where(or_(*ends)))
    return {row["id"]: row for row in sorted(found, key=lambda row: str(row["id"]))}


def _members(connection: Connection, pairs: Mapping[str, Mapping[str, Any]]) -> tuple[Member, ...]:
    return tuple(
        Member(
            **row, night_id=pairs[row["pair_id"]]["night_id"], behaviour=pairs[row["pair_id"]]["behaviour"]
        )
        for row in among(connection, schema.update_pairs, "pair_id", pairs)
    )


# ---------------------------------------------------------------- work and events


@dataclass(frozen=True)
class _Mentions:
    """Whether something names what goes, by an id or in its words."""

    ids: frozenset[str]
    texts: list[str]

    def named(self, *values: Any) -> bool:
        """Whether one of the ids is in these values."""
        return any(
            not self.ids.isdisjoint(_WORD.findall(text)) for value in values for text in _strings(value)
        )

    def quoted(self, *values: Any) -> bool:
        """Whether one of the turns is in these values, or one of the ids."""
        said = [text for value in values for text in _strings(value)]
        quotes = [text for text in self.texts if len(text) >= SHORTEST_QUOTE]
        return self.named(*values) or any(quote in text for text in said for quote in quotes)


def _strings(value: Any) -> Iterator[str]:
    """Every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for part in value.values() for text in _strings(part))
    elif isinstance(value, list):
        yield from (text for part in value for text in _strings(part))


def _work(
    connection: Connection, ids: Collection[str], told: _Mentions
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The work on these conversations, and other work whose error mentions them."""
    w = schema.work
    rows = rows_of(
        connection, select(w).where((w.c.kind == "extract") | w.c.error.is_not(None)).order_by(w.c.id)
    )
    mine = {
        row["id"] for row in rows if row["kind"] == "extract" and row["subject"].rpartition(":")[0] in ids
    }
    return tuple(sorted(mine)), tuple(
        row["id"] for row in rows if row["id"] not in mine and told.quoted(row["error"])
    )


def _events(connection: Connection, told: _Mentions) -> tuple[int, ...]:
    e = schema.events
    rows = rows_of(connection, select(e).order_by(e.c.seq))
    return tuple(
        row["seq"]
        for row in rows
        if (told.quoted if row["kind"] == "failure" else told.named)(row["subject"], row["body"])
    )


# ---------------------------------------------------------------- how they are known again


def _marks(heard: Iterable[Mapping[str, Any]], turns: Iterable[Mapping[str, Any]]) -> set[str]:
    """By what an ingest knows these conversations again.

    The system turns at the beginning say nothing of a conversation: every other one of the same user has them.
    """
    by_conversation = defaultdict[str, list[Mapping[str, Any]]](list)
    for row in turns:
        by_conversation[row["conversation_id"]].append(row)
    marks = {key_mark(row["format"], row["key"]) for row in heard if row["key"]}
    for rows in by_conversation.values():
        rows = sorted(rows, key=lambda row: int(row["position"]))
        said = [index for index, row in enumerate(rows) if row["role"] != "system"]
        marks |= {row["chain"] for row in rows[min(said, default=0) :]}
    return marks


def _shared(connection: Connection, ids: Collection[str], marks: Iterable[str]) -> dict[str, set[str]]:
    """The marks that turns of conversations which stay have too, with those conversations."""
    shared = defaultdict[str, set[str]](set)
    for row in among(connection, schema.turns, "chain", marks):
        if row["conversation_id"] not in ids:
            shared[row["chain"]].add(row["conversation_id"])
    return dict(shared)
