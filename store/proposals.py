"""Proposed behaviours in the ledger: stores complaints, and returns proposals with their evidence.

Invariant: a complaint counts once for each rule that it is about. A complaint that was forgotten takes its
evidence with it, and a proposal without evidence goes too. This module does not know which complaints mean
the same: `agents.proposer` does.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, func, select

from store import graph
from store.ledger import schema
from store.ledger.db import now
from store.ledger.records import Edge, Node, Signal, StoredTurn, identity, insert
from store.ledger.rows import all_of, among, delete_among, first_of
from store.ledger.schema_proposals import evidence, proposals

COMPLAINTS = ("correction", "repeated_ask")
"""Kinds of signal whose words may say what is missing."""
OPEN, ACCEPTED, REJECTED, LATER, MERGED = "open", "accepted", "rejected", "later", "merged"
LONGEST = 2000
"""Most characters of a complaint that are read."""


@dataclass(frozen=True, kw_only=True)
class Complaint:
    """A complaint that no behaviour explains, with what it is about."""

    signal_id: str
    kind: str
    conversation_id: str
    position: int
    source: str
    path: str
    line: int
    words: str
    request: str
    answer: str
    answer_position: int
    of: str | None = None
    """What it is of: `behaviour`, `task`, or None if its words do not say."""
    following: str
    """The answer after the complaint; "" if there is none."""


@dataclass(frozen=True, kw_only=True)
class ProposalRow:
    """The row of a proposal."""

    number: int
    key: str
    rule: str
    state: str = OPEN
    reason: str = ""
    seen: list[str] = field(default_factory=list)
    behaviour: str | None = None
    merged_into: int | None = None
    at: str


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The row of a complaint that supports a proposal."""

    number: int
    signal_id: str
    parameters: dict[str, Any] = field(default_factory=dict)


def complaints(connection: Connection, *, known: bool) -> list[Complaint]:
    """Return the complaints that no behaviour explains, in the order of their turns.

    Args:
        connection: The ledger.
        known: Whether to return the complaints that are evidence already; False returns the others.
    """
    s = schema.signals
    gathered = select(evidence.c.signal_id)
    unexplained = (s.c.state == "noted") & s.c.behaviour.is_(None) & s.c.id.not_in(gathered)
    which = s.c.id.in_(gathered) if known else unexplained
    signals = all_of(connection, Signal, select(s).where(which & s.c.kind.in_(COMPLAINTS)))
    turns = defaultdict[str, list[StoredTurn]](list)
    for turn in among(
        connection, StoredTurn, schema.turns, "conversation_id", {x.conversation_id for x in signals}
    ):
        turns[turn.conversation_id].append(turn)
    found = []
    for signal in signals:
        own = {turn.position: turn for turn in turns[signal.conversation_id]}
        complaint = _complaint(signal, own) if signal.position in own else None
        if complaint is not None:
            found.append((own[signal.position].id, complaint))
    return [complaint for _, complaint in sorted(found, key=lambda one: (one[0], one[1].signal_id))]


def _complaint(signal: Signal, own: Mapping[int, StoredTurn]) -> Complaint | None:
    """Return a complaint with its answer and request; None if there is no answer before it."""
    before = [own[place] for place in sorted(own) if place < signal.position]
    answers = [turn for turn in before if turn.role == "assistant" and turn.text.strip()]
    if not answers:
        return None
    asked = [turn.text for turn in before if turn.role == "user" and turn.position < answers[-1].position]
    after = own.get(signal.position + 1)
    turn = own[signal.position]
    return Complaint(
        signal_id=signal.id,
        kind=signal.kind,
        conversation_id=signal.conversation_id,
        position=signal.position,
        source=signal.source,
        path=turn.path,
        line=turn.line,
        words=turn.text[:LONGEST],
        request=asked[-1] if asked else "",
        answer=answers[-1].text,
        answer_position=answers[-1].position,
        of=signal.of,
        following=after.text if after is not None and after.role == "assistant" else "",
    )


def rows(connection: Connection) -> list[ProposalRow]:
    """Return all proposals, sorted by number."""
    return all_of(connection, ProposalRow, select(proposals).order_by(proposals.c.number))


def evidence_of(connection: Connection) -> dict[int, list[Evidence]]:
    """Return the evidence of every proposal, by its number."""
    found = defaultdict[int, list[Evidence]](list)
    for row in all_of(
        connection, Evidence, select(evidence).order_by(evidence.c.number, evidence.c.signal_id)
    ):
        found[row.number].append(row)
    return dict(found)


def add(connection: Connection, key: str, rule: str, found: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Add evidence to the proposal with this key, and the proposal if there is none.

    Evidence of a merged proposal counts for the one that it was merged into.

    Args:
        connection: The ledger, in a transaction that writes.
        key: The key of the proposal.
        rule: The check that the proposal is about; "" for none.
        found: For each complaint, the id of its signal and the parameters that it states.
    """
    row = first_of(connection, ProposalRow, select(proposals).where(proposals.c.key == key))
    if row is None:
        last = connection.execute(select(func.max(proposals.c.number))).scalar() or 0
        row = ProposalRow(number=last + 1, key=key, rule=rule, at=now())
        insert(connection, proposals, [row])
    number = row.merged_into or row.number
    # What is said of one rule's parameters says nothing of another's.
    records = [
        Evidence(number=number, signal_id=one, parameters={} if row.merged_into else dict(said))
        for one, said in found
    ]
    insert(connection, evidence, records)


def decide(connection: Connection, number: int, state: str, **values: Any) -> None:
    """Store a decision on a proposal, with the evidence that it was based on.

    Args:
        connection: The ledger, in a transaction that writes.
        number: The proposal's number.
        state: The proposal's new state.
        values: Other columns to change.
    """
    seen = [one.signal_id for one in evidence_of(connection).get(number, [])]
    change = proposals.update().where(proposals.c.number == number)
    connection.execute(change.values(state=state, seen=seen, **values))


def merge(connection: Connection, number: int, into: int) -> None:
    """Give the evidence of one proposal to another, for good."""
    mine = evidence_of(connection).get(number, [])
    insert(connection, evidence, [Evidence(number=into, signal_id=one.signal_id) for one in mine])
    connection.execute(evidence.delete().where(evidence.c.number == number))
    earlier = proposals.update().where((proposals.c.number == number) | (proposals.c.merged_into == number))
    connection.execute(earlier.values(state=MERGED, merged_into=into))


def teach(connection: Connection, name: str, nodes: Sequence[Node], found: Iterable[Complaint]) -> int:
    """Make lessons for a behaviour of complaints that no behaviour explained; return their number.

    Args:
        connection: The ledger, in a transaction that writes.
        name: The behaviour's name.
        nodes: The nodes of the behaviour and of its counter-behaviour.
        found: The complaints. One whose episode is not in the graph gives no lesson.
    """
    head = next(node for node in nodes if node.name == name)
    graph.merge(connection, nodes)
    s, taught = schema.signals, 0
    for one in found:
        episode = graph.get(connection, identity("episode", f"{one.conversation_id}:{one.answer_position}"))
        if episode is None:
            continue
        values = {"state": "new", "behaviour": name, "reason": f"a person accepted {name} for it"}
        fresh = (s.c.id == one.signal_id) & (s.c.state == "noted")
        taught += connection.execute(s.update().where(fresh).values(**values)).rowcount
        edge = Edge(kind="supports", tail_id=episode.id, head_id=head.id, signal_id=one.signal_id)
        graph.merge(connection, [edge])
    return taught


def forget(connection: Connection, signals: Iterable[str]) -> None:
    """Delete the evidence that these signals gave, and every proposal that has none left."""
    delete_among(connection, evidence, "signal_id", signals)
    kept = {row.number for row in all_of(connection, Evidence, select(evidence))}
    gone = {row.number for row in rows(connection) if row.number not in kept and row.merged_into not in kept}
    delete_among(connection, proposals, "number", gone)
    named = set(signals)
    for row in rows(connection):
        if named & set(row.seen):
            left = [signal for signal in row.seen if signal not in named]
            connection.execute(proposals.update().where(proposals.c.number == row.number).values(seen=left))
