"""The memory graph: what was learnt, how it is connected, and where it came from.

Invariant: `merge` only adds. Merging the same extraction again changes nothing: an edge counts once, a signal
that a night has taken up keeps its state, and a node's text is filled where it was empty, never replaced.
Reads come in an order that is fixed by content. This module knows how records join, but not how they are
extracted.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, func, select

from store.ledger import schema
from store.ledger.records import Edge, Node, Signal, save
from store.ledger.rows import all_of, first_of

COUNTING = {"supports": "head", "shows": "head", "about": "tail"}
"""Edges that add weight to a node, and at which end: the behaviour or feeling that they lead to, or the fact
that they come from."""
URGENT = ("frustrated", "worried", "tired")
"""Feelings in a turn's words that raise an episode's priority."""
READ = "read:"
"""Prefix of a feeling that was read in the residual stream, not in the words."""
READ_LIFT = 0.5
"""How much of such a feeling counts: whatever moved the model most, pleasant or not, and less than what was
said."""
PLACES = 6
"""Decimals of a weight: a sum must not depend on its order in the last bits."""


@dataclass(frozen=True, kw_only=True)
class KnownBehaviour:
    """A behaviour's node, with the number of signals for it and against it."""

    node: Node
    supports: int
    contradictions: int
    proposed: bool


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A line of a log, and the signal by which it entered the graph."""

    signal_id: str
    """Empty where a fact was stated without a signal."""
    kind: str
    source: str
    conversation_id: str
    position: int
    path: str
    line: int
    text: str


# ---------------------------------------------------------------- merge


def merge(connection: Connection, records: Iterable[Signal | Node | Edge]) -> None:
    """Merge an extraction into the graph."""
    records = list(records)
    signals = [record for record in records if isinstance(record, Signal)]
    edges = [record for record in records if isinstance(record, Edge)]
    for node in sorted((r for r in records if isinstance(r, Node)), key=lambda node: node.id):
        _merge_node(connection, node)
    save(connection, signals)
    fresh = _fresh(connection, edges)
    save(connection, fresh)
    _weigh(connection, fresh, {signal.id: signal.strength for signal in signals})
    _contradict(connection, [record for record in records if isinstance(record, Node)])


def _merge_node(connection: Connection, node: Node) -> None:
    """Add a node, or merge it into the one of its kind and name."""
    known = get(connection, node.id)
    if known is None:
        save(connection, [node])
        return
    body = {**node.body, **{key: value for key, value in known.body.items() if value not in ("", None)}}
    if node.kind == "behaviour" and known.body.get("proposed") and node.body.get("proposed") is False:
        body = node.body  # a person has declared what was only proposed
    feelings = dict(known.feelings)
    for name, score in sorted(node.feelings.items()):
        feelings[name] = max(score, feelings.get(name, 0.0))
    weight = max(known.weight, node.weight) if node.kind == "episode" else known.weight
    if (body, feelings, weight) != (known.body, known.feelings, known.weight):
        t = schema.nodes
        merged = t.update().where(t.c.id == node.id).values(body=body, feelings=feelings, weight=weight)
        connection.execute(merged)


def _fresh(connection: Connection, edges: Iterable[Edge]) -> list[Edge]:
    """Return the edges that are not in the graph yet, each once."""
    t = schema.edges
    wanted = dict.fromkeys(edges)
    tails = sorted({edge.tail_id for edge in wanted})
    known = set(all_of(connection, Edge, select(t).where(t.c.tail_id.in_(tails))))
    return [edge for edge in wanted if edge not in known]


def _weigh(connection: Connection, fresh: Iterable[Edge], strengths: Mapping[str, float]) -> None:
    """Add the strength of each new edge's signal to the node that the edge supports."""
    t = schema.nodes
    order = sorted(fresh, key=lambda edge: (edge.kind, edge.tail_id, edge.head_id, edge.signal_id))
    for edge in order:
        if edge.kind in COUNTING:
            target = edge.head_id if COUNTING[edge.kind] == "head" else edge.tail_id
            known = connection.execute(select(t.c.weight).where(t.c.id == target)).scalar_one()
            weight = round(known + strengths.get(edge.signal_id, 1.0), PLACES)
            connection.execute(t.update().where(t.c.id == target).values(weight=weight))


def _contradict(connection: Connection, nodes: Iterable[Node]) -> None:
    """Connect facts that give one subject different values, as contradictions; both stay."""
    new = [node for node in nodes if node.kind == "fact" and node.body.get("subject")]
    if not new:
        return
    known = all_of(connection, Node, select(schema.nodes).where(schema.nodes.c.kind == "fact"))
    contradictions = [
        Edge(kind="contradicts", tail_id=max(one.id, other.id), head_id=min(one.id, other.id))
        for one in new
        for other in known
        if one.id != other.id and all(one.body[key] == other.body.get(key) for key in ("subject", "source"))
    ]
    save(connection, _fresh(connection, contradictions))


# ---------------------------------------------------------------- reads


def get(connection: Connection, node_id: str) -> Node | None:
    """Return one node; None if there is none of this id."""
    return first_of(connection, Node, select(schema.nodes).where(schema.nodes.c.id == node_id))


def behaviours(connection: Connection) -> list[KnownBehaviour]:
    """Return all behaviour nodes, by name."""
    n, e = schema.nodes, schema.edges
    counted = (
        select(e.c.head_id, e.c.kind, func.count(e.c.signal_id.distinct()).label("signals"))
        .where(e.c.kind.in_(("supports", "contradicts")))
        .group_by(e.c.head_id, e.c.kind)
    )
    counts = {(row.head_id, row.kind): int(row.signals) for row in connection.execute(counted)}
    nodes = all_of(connection, Node, select(n).where(n.c.kind == "behaviour").order_by(n.c.name))
    return [
        KnownBehaviour(
            node=node,
            supports=counts.get((node.id, "supports"), 0),
            contradictions=counts.get((node.id, "contradicts"), 0),
            proposed=bool(node.body.get("proposed")),
        )
        for node in nodes
    ]


def episodes(connection: Connection, behaviour: str) -> list[Node]:
    """Return the episodes that support a behaviour, highest priority first, but for refused signals."""
    n, e, s = schema.nodes, schema.edges, schema.signals
    query = (
        select(e.c.tail_id)
        .distinct()
        .join(s, s.c.id == e.c.signal_id)
        .join(n, n.c.id == e.c.head_id)
        .where((e.c.kind == "supports") & (s.c.state != "refused"))
        .where((n.c.kind == "behaviour") & (n.c.name == behaviour))
    )
    ids = list(connection.execute(query).scalars())
    nodes = all_of(connection, Node, select(n).where(n.c.id.in_(ids)))
    return sorted(nodes, key=lambda node: (-priority(node), node.id))


def priority(node: Node) -> float:
    """Return how pressing an episode is: its weight, raised by the strongest feeling about it.

    A feeling in a user's words adds up to the same weight again, one that was read in the model up to half of
    it.
    """
    spoken = [score for name, score in node.feelings.items() if name in URGENT]
    read = [READ_LIFT * score for name, score in node.feelings.items() if name.startswith(READ)]
    return round(node.weight * (1 + max([*spoken, *read], default=0.0)), PLACES)


def new_lessons(connection: Connection, cursor: int) -> list[tuple[Signal, Node]]:
    """Return the signals up to the cursor that no night has taken up, by id, each with its episode.

    A lesson is taken up once: when its night makes too few pairs for an update, those pairs wait for more.
    """
    s, t = schema.signals, schema.turns
    here = (t.c.conversation_id == s.c.conversation_id) & (t.c.position == s.c.position)
    query = (
        select(s)
        .join(t, here)
        .where(
            (s.c.state == "new") & s.c.behaviour.is_not(None) & s.c.night_id.is_(None) & (t.c.id <= cursor)
        )
    )
    return _with_episodes(connection, query)


def lessons_of(connection: Connection, night_id: str) -> list[tuple[Signal, Node]]:
    """Return the signals that a night has taken up, by id, each with its episode."""
    s = schema.signals
    taken_up = select(s).where((s.c.night_id == night_id) & s.c.behaviour.is_not(None))
    return _with_episodes(connection, taken_up)


def provenance(connection: Connection, node_id: str) -> list[Origin]:
    """Return the log lines that a node came from, in the order of their turns."""
    e, s = schema.edges, schema.signals
    at_node = select(e).where((e.c.tail_id == node_id) | (e.c.head_id == node_id))
    edges = all_of(connection, Edge, at_node)
    places = dict[tuple[str, int], tuple[str, str]]()
    for end in [node_id, *sorted(edge.head_id for edge in edges if edge.kind == "about")]:
        node = get(connection, end)
        if node is not None and node.kind == "episode":
            places[node.body["conversation_id"], node.body["position"]] = ("", "told")
    ids = sorted({edge.signal_id for edge in edges if edge.signal_id})
    for signal in all_of(connection, Signal, select(s).where(s.c.id.in_(ids)).order_by(s.c.id)):
        places[signal.conversation_id, signal.position] = (signal.id, signal.kind)
    return _origins(connection, places)


def origins_of_signal(connection: Connection, signal_id: str) -> list[Origin]:
    """Return the log line that carries a signal; none if there is no such signal."""
    s = schema.signals
    signal = first_of(connection, Signal, select(s).where(s.c.id == signal_id))
    if signal is None:
        return []
    return _origins(connection, {(signal.conversation_id, signal.position): (signal.id, signal.kind)})


# ---------------------------------------------------------------- rows


def _origins(connection: Connection, places: Mapping[tuple[str, int], tuple[str, str]]) -> list[Origin]:
    """Return the turns at these places (conversation, position), each with its (signal, kind)."""
    t, c = schema.turns, schema.conversations
    query = (
        select(t, c.c.source)
        .join(c, c.c.id == t.c.conversation_id)
        .where(t.c.conversation_id.in_(sorted({conversation for conversation, _ in places})))
        .order_by(t.c.id)
    )
    return [
        Origin(
            signal_id=places[place][0],
            kind=places[place][1],
            source=row.source,
            conversation_id=row.conversation_id,
            position=row.position,
            path=row.path,
            line=row.line,
            text=row.text,
        )
        for row in connection.execute(query)
        if (place := (row.conversation_id, row.position)) in places
    ]


def _with_episodes(connection: Connection, query: Select[Any]) -> list[tuple[Signal, Node]]:
    """Return these signals by id, each with the episode by which it supports its behaviour."""
    e, n = schema.edges, schema.nodes
    lessons = list[tuple[Signal, Node]]()
    for signal in all_of(connection, Signal, query.order_by(schema.signals.c.id)):
        supporting = (e.c.signal_id == signal.id) & (e.c.kind == "supports") & (n.c.kind == "episode")
        of_signal = select(n).join(e, e.c.tail_id == n.c.id).where(supporting).order_by(n.c.id)
        episode = first_of(connection, Node, of_signal.limit(1))
        if episode is not None:
            lessons.append((signal, episode))
    return lessons
