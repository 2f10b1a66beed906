"""The part of the memory graph that is deleted when some conversations are forgotten.

Invariant: this module only reads. A node is deleted with the last edge that supports it; a declared behaviour
stays. A node that stays loses the weight, the feelings and the texts that the deleted edges gave it. This
module knows how edges are counted (`store.graph`), but does not know why nodes are deleted.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from sqlalchemy import Connection, select

from corpus.aliases import Json
from store.graph import COUNTING, PLACES
from store.ledger import schema
from store.ledger.records import Edge, Node
from store.ledger.rows import all_of, among

QUOTED = 160
"""Number of characters of a request that a proposed behaviour quotes: see `agents.extractor.extract`."""


@dataclass(frozen=True, kw_only=True)
class LostGraph:
    """The part of the memory graph to delete, and the nodes that change."""

    nodes: frozenset[str]
    edges: tuple[Edge, ...]
    lessened: tuple[Node, ...]
    """The nodes that stay and change, as they are afterwards."""


def lost_graph(connection: Connection, ids: Collection[str], strengths: Mapping[str, float]) -> LostGraph:
    """Return the part of the memory graph to delete with these conversations, and the nodes that change.

    Args:
        connection: The ledger.
        ids: The conversations.
        strengths: The strength of each signal of these conversations, by the signal's id.
    """
    n = schema.nodes
    dead: dict[str, Node] = {}
    for conversation_id in ids:
        of = n.c.name.startswith(f"{conversation_id}:", autoescape=True) & (n.c.kind == "episode")
        dead |= {node.id: node for node in all_of(connection, Node, select(n).where(of))}
    gone = _edges_at(connection, dead)
    gone |= set(among(connection, Edge, schema.edges, "signal_id", strengths))
    ends = {end for edge in gone for end in (edge.tail_id, edge.head_id)} - dead.keys()
    touched = {node.id: node for node in among(connection, Node, n, "id", ends)}
    left = _left(connection, touched, gone)
    fallen = {node.id for node in touched.values() if not _stands(node, left[node.id])}
    gone |= _edges_at(connection, fallen)
    lost_edges = tuple(sorted(gone, key=_key))
    lessened = tuple(
        _less(connection, node, left[node.id], lost_edges, strengths, dead)
        for node in touched.values()
        if node.id not in fallen
    )
    return LostGraph(nodes=frozenset({*dead, *fallen}), edges=lost_edges, lessened=lessened)


def _edges_at(connection: Connection, nodes: Collection[str]) -> set[Edge]:
    """Return the edges that begin or end at one of these nodes."""
    ends = ("tail_id", "head_id")
    return {edge for end in ends for edge in among(connection, Edge, schema.edges, end, nodes)}


def _left(connection: Connection, touched: Collection[str], gone: Collection[Edge]) -> dict[str, list[Edge]]:
    """Return the edges that stay at each of these nodes, by the node's id.

    Args:
        connection: The ledger.
        touched: Ids of nodes that lose an edge.
        gone: The edges that are deleted.
    """
    left: dict[str, list[Edge]] = {node_id: [] for node_id in touched}
    for edge in sorted(_edges_at(connection, touched) - set(gone), key=_key):
        for end in {edge.tail_id, edge.head_id} & left.keys():
            left[end].append(edge)
    return left


def _stands(node: Node, left: Iterable[Edge]) -> bool:
    """Return whether a node stays: it is a declared behaviour, or an edge that is left supports it."""
    if node.kind == "behaviour" and not node.body.get("proposed"):
        return True
    return any(edge.kind in COUNTING or edge.signal_id for edge in left)


def _less(
    connection: Connection,
    node: Node,
    left: Iterable[Edge],
    gone: Iterable[Edge],
    strengths: Mapping[str, float],
    dead: Mapping[str, Node],
) -> Node:
    """Return a node without the weight, the feelings and the texts that the deleted edges gave it.

    Args:
        connection: The ledger.
        node: The node, which stays.
        left: Its edges that stay.
        gone: All deleted edges.
        strengths: The strength of each deleted signal, by id.
        dead: The deleted episodes, by id.
    """
    lost_weight = sum(
        strengths.get(edge.signal_id, 1.0)
        for edge in gone
        if (end := COUNTING.get(edge.kind)) and node.id == (edge.head_id if end == "head" else edge.tail_id)
    )
    weight = max(0.0, round(node.weight - lost_weight, PLACES))
    if node.kind != "behaviour":
        return replace(node, weight=weight)
    tails = among(
        connection, Node, schema.nodes, "id", {edge.tail_id for edge in left if edge.kind != "guards"}
    )
    felt = defaultdict[str, float](float)
    for tail in tails:
        for name, score in tail.feelings.items():
            felt[name] = max(felt[name], score)
    feelings = {name: min(score, felt[name]) for name, score in node.feelings.items() if name in felt}
    return replace(node, weight=weight, feelings=feelings, body=_reworded(node.body, dead.values(), tails))


def _reworded(body: Json, dead: Iterable[Node], alive: Iterable[Node]) -> Json:
    """Return the body of a behaviour's node, without quotations of a deleted request.

    In a proposed behaviour the deleted request is replaced by the request of an episode that stays.

    Args:
        body: The body of the node.
        dead: The deleted episodes.
        alive: The episodes that stay.
    """
    if not body.get("proposed") or not body.get("examples"):
        return body
    (shown, *_), lost = body["examples"], {_request(node) for node in dead}
    other = next((_request(node) for node in alive), "")
    if not shown or shown not in lost:
        return body
    texts = {key: value.replace(shown, other) for key, value in body.items() if isinstance(value, str)}
    return {**body, **texts, "examples": [other]}


def _request(episode: Node) -> str:
    """Return the part of an episode's request that a proposed behaviour quotes."""
    return str(episode.body.get("request", ""))[:QUOTED]


def _key(edge: Edge) -> tuple[str, str, str, str]:
    """Return the primary key of an edge, by which edges are sorted."""
    return edge.kind, edge.tail_id, edge.head_id, edge.signal_id
