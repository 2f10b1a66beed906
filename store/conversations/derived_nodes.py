"""What forgetting some conversations takes out of the memory graph, and what it leaves of the rest.

Invariant: reads only. A node goes with the last edge that speaks of it; what was declared stays. Of a node that
stays, the weight, the feelings and the words that the lost edges gave it go. Knows how the edges were counted
(`store.graph`), not who forgets.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from store.graph import COUNTING, PLACES
from store.ledger import schema
from store.ledger.rows import among, rows_of

QUOTED = 160
"""Characters of a request that a proposed behaviour shows: see `agents.extractor.extract`."""

EdgeKey = tuple[str, str, str, str]
"""kind, tail, head and signal of an edge: its primary key."""


@dataclass(frozen=True, kw_only=True)
class Lost:
    """The part of the memory graph that goes, and what that leaves of the rest."""

    nodes: frozenset[str]
    edges: tuple[EdgeKey, ...]
    lessened: dict[str, dict[str, Any]]
    """New values of the nodes that stay, by id."""


def lost(connection: Connection, ids: Collection[str], strengths: Mapping[str, float]) -> Lost:
    """What goes of the memory graph, and what is left of the nodes that it touches."""
    n = schema.nodes
    dead = {
        row["id"]: row
        for conversation_id in ids
        for row in rows_of(
            connection,
            select(n).where(
                n.c.name.startswith(f"{conversation_id}:", autoescape=True) & (n.c.kind == "episode")
            ),
        )
    }
    gone = _edges_at(connection, dead)
    gone |= {_key(row): row for row in among(connection, schema.edges, "signal_id", strengths)}
    ends = {end for key in gone for end in key[1:3]} - dead.keys()
    touched = {row["id"]: row for row in among(connection, n, "id", ends)}
    left = _left(connection, touched, gone)
    fallen = {node_id: row for node_id, row in touched.items() if not _stands(row, left[node_id])}
    gone |= _edges_at(connection, fallen)
    lessened = {
        node_id: _less(connection, row, left[node_id], gone, strengths, dead)
        for node_id, row in touched.items()
        if node_id not in fallen
    }
    return Lost(nodes=frozenset({*dead, *fallen}), edges=tuple(sorted(gone)), lessened=lessened)


def _edges_at(connection: Connection, nodes: Collection[str]) -> dict[EdgeKey, dict[str, Any]]:
    """The edges that begin or end at one of these nodes."""
    found = [row for end in ("tail_id", "head_id") for row in among(connection, schema.edges, end, nodes)]
    return {_key(row): row for row in found}


def _left(
    connection: Connection, touched: Collection[str], gone: Collection[EdgeKey]
) -> dict[str, list[dict[str, Any]]]:
    """The edges that stay, by which of these nodes is at either end."""
    left: dict[str, list[dict[str, Any]]] = {node_id: [] for node_id in touched}
    for key, row in sorted(_edges_at(connection, touched).items()):
        if key not in gone:
            for end in {row["tail_id"], row["head_id"]} & left.keys():
                left[end].append(row)
    return left


def _stands(node: Mapping[str, Any], left: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a node stays: it was declared, or something else still speaks of it."""
    if node["kind"] == "behaviour" and not node["body"].get("proposed"):
        return True
    return any(edge["kind"] in COUNTING or edge["signal_id"] for edge in left)


def _less(
    connection: Connection,
    node: Mapping[str, Any],
    left: list[dict[str, Any]],
    gone: Iterable[EdgeKey],
    strengths: Mapping[str, float],
    dead: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """What is left of a node: without the weight, the feelings and the words that the lost edges gave it."""
    lost = sum(
        strengths.get(signal_id, 1.0)
        for kind, tail_id, head_id, signal_id in gone
        if COUNTING.get(kind) and node["id"] == (head_id if COUNTING[kind] == "head" else tail_id)
    )
    weight = max(0.0, round(node["weight"] - lost, PLACES))
    if node["kind"] != "behaviour":
        return {"weight": weight}
    tails = among(
        connection, schema.nodes, "id", {edge["tail_id"] for edge in left if edge["kind"] != "guards"}
    )
    felt = defaultdict[str, float](float)
    for row in tails:
        for name, score in row["feelings"].items():
            felt[name] = max(felt[name], score)
    feelings = {name: min(score, felt[name]) for name, score in node["feelings"].items() if name in felt}
    return {"weight": weight, "feelings": feelings, "body": _reworded(node["body"], dead.values(), tails)}


def _reworded(
    body: dict[str, Any], dead: Iterable[Mapping[str, Any]], alive: list[dict[str, Any]]
) -> dict[str, Any]:
    """A proposed behaviour's text, with the request that goes replaced by one that stays."""
    if not body.get("proposed") or not body.get("examples"):
        return body
    (shown, *_), lost = body["examples"], {str(row["body"].get("request", ""))[:QUOTED] for row in dead}
    other = next((str(row["body"].get("request", ""))[:QUOTED] for row in alive), "")
    if not shown or shown not in lost:
        return body
    texts = {key: value.replace(shown, other) for key, value in body.items() if isinstance(value, str)}
    return {**body, **texts, "examples": [other]}


def _key(row: Mapping[str, Any]) -> EdgeKey:
    return row["kind"], row["tail_id"], row["head_id"], row["signal_id"]
