"""The memory graph: what was learnt, how it is connected, and which log lines it came from.

Nodes are behaviours, episodes, facts and feelings; an edge connects two nodes and names the signal that is
its evidence. A night takes up a signal when it plans to learn from it.

Invariant: `merge` only adds. Merging the same extraction again changes nothing: an edge counts once, a signal
that a night has taken up keeps its state, and a text of a node is filled if it was empty, never replaced
(except when a person declares a proposed behaviour). Results are in an order that is fixed by content. This
module knows how records are joined, but not how they are extracted.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, func, select

from store.ledger import schema
from store.ledger.records import Edge, Node, Signal, save
from store.ledger.rows import all_of, first_of

COUNTING = {"supports": "head", "shows": "head", "about": "tail"}
"""The kinds of edge that add weight to a node, each with the end at which the node is. It is the behaviour or
feeling at the head, or the fact at the tail."""
URGENT = ("frustrated", "worried", "tired")
"""Feelings that raise an episode's priority when a user's words show them."""
READ = "read:"
"""Prefix of a feeling that was read in the model's residual stream, not in the user's words."""
READ_LIFT = 0.5
"""Factor on feelings that were read in the model, pleasant or not: they count less than a user's words."""
PLACES = 6
"""Decimals of a weight. Weights are rounded so that a sum does not depend on the order of its terms."""


@dataclass(frozen=True, kw_only=True)
class KnownBehaviour:
    """A behaviour's node with the number of signals for the behaviour and against it."""

    node: Node
    supports: int
    contradictions: int
    proposed: bool


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A line of a log from which something in the graph came, with the signal that the line carries."""

    signal_id: str
    """Id of the signal; "" for a fact that was stated without a signal."""
    kind: str
    source: str
    conversation_id: str
    position: int
    path: str
    line: int
    text: str


# ---------------------------------------------------------------- merge


def merge(connection: Connection, records: Iterable[Signal | Node | Edge]) -> None:
    """Merge the records of an extraction into the graph."""
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
    """Add a node; if the graph has a node with its id, merge the two."""
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
    """Add the strength of each new edge's signal to the weight of the node that the edge supports.

    Args:
        connection: The ledger, in a transaction that writes.
        fresh: The new edges.
        strengths: The strength of each signal, by id; an edge without one adds 1.
    """
    t = schema.nodes
    order = sorted(fresh, key=lambda edge: (edge.kind, edge.tail_id, edge.head_id, edge.signal_id))
    for edge in order:
        if edge.kind in COUNTING:
            target = edge.head_id if COUNTING[edge.kind] == "head" else edge.tail_id
            known = connection.execute(select(t.c.weight).where(t.c.id == target)).scalar_one()
            weight = round(known + strengths.get(edge.signal_id, 1.0), PLACES)
            connection.execute(t.update().where(t.c.id == target).values(weight=weight))


def _contradict(connection: Connection, nodes: Iterable[Node]) -> None:
    """Add a `contradicts` edge between facts of one source that give one subject different values.

    Both facts stay. The new facts among these nodes are compared with all facts.
    """
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
    """Return the node with this id; None if there is none."""
    return first_of(connection, Node, select(schema.nodes).where(schema.nodes.c.id == node_id))


def behaviours(connection: Connection) -> list[KnownBehaviour]:
    """Return all behaviour nodes with their numbers of signals, sorted by name."""
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
    """Return the episodes that support a behaviour, highest priority first.

    An episode counts only if a signal that is not refused connects it to the behaviour.
    """
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
    """Return an episode's priority: its weight, raised by its strongest feeling.

    A feeling in the user's words adds up to the whole weight again; a feeling that was read in the model adds
    up to half of the weight.
    """
    spoken = [score for name, score in node.feelings.items() if name in URGENT]
    read = [READ_LIFT * score for name, score in node.feelings.items() if name.startswith(READ)]
    return round(node.weight * (1 + max([*spoken, *read], default=0.0)), PLACES)


def new_lessons(connection: Connection, cursor: int) -> list[tuple[Signal, Node]]:
    """Return the signals that no night has taken up, sorted by id, each with its episode.

    A signal is taken up once. If its night makes too few pairs for an update, these pairs wait for a later
    night.

    Args:
        connection: The ledger.
        cursor: Id of the last turn whose signals count.
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
    """Return the signals that a night has taken up, sorted by id, each with its episode."""
    s = schema.signals
    taken_up = select(s).where((s.c.night_id == night_id) & s.c.behaviour.is_not(None))
    return _with_episodes(connection, taken_up)


def provenance(connection: Connection, node_id: str) -> list[Origin]:
    """Return the log lines that a node came from, in the order in which their turns were stored."""
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
    """Return the log line that carries a signal, as a list; [] if there is no such signal."""
    s = schema.signals
    signal = first_of(connection, Signal, select(s).where(s.c.id == signal_id))
    if signal is None:
        return []
    return _origins(connection, {(signal.conversation_id, signal.position): (signal.id, signal.kind)})


# ---------------------------------------------------------------- rows


def _origins(connection: Connection, places: Mapping[tuple[str, int], tuple[str, str]]) -> list[Origin]:
    """Return the log lines of the turns at these places.

    Args:
        connection: The ledger.
        places: (signal id, kind) by (conversation id, position).
    """
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
    """Return the signals of a query, sorted by id, each with the episode by which it supports its behaviour.

    A signal without such an episode is left out.
    """
    e, n = schema.edges, schema.nodes
    lessons = list[tuple[Signal, Node]]()
    for signal in all_of(connection, Signal, query.order_by(schema.signals.c.id)):
        supporting = (e.c.signal_id == signal.id) & (e.c.kind == "supports") & (n.c.kind == "episode")
        of_signal = select(n).join(e, e.c.tail_id == n.c.id).where(supporting).order_by(n.c.id)
        episode = first_of(connection, Node, of_signal.limit(1))
        if episode is not None:
            lessons.append((signal, episode))
    return lessons
