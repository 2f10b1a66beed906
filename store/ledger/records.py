"""The ledger's records: one frozen value for each kind of row, on the way in and on the way out.

Invariant: a record's fields are its table's columns (tested); the schema says what each one means. Ids are
content digests made by `identity`: work that is done twice gives the same rows, and `save` keeps one of them.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

from store.ledger import schema

Wider = TypeVar("Wider")


def identity(*parts: Any) -> str:
    """Return a 16-character id of these parts, which JSON can hold."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def seed_of(*parts: Any) -> int:
    """Return the seed of a draw: a 31-bit digest of its subject, so that a repeat draws the same."""
    return int(identity("seed", *parts), 16) >> 33


@dataclass(frozen=True, kw_only=True)
class StoredConversation:
    """A conversation's row; its turns are rows of their own."""

    id: str
    source: str
    format: str
    key: str
    tail: str
    path: str
    at: str


@dataclass(frozen=True, kw_only=True)
class StoredTurn:
    """A turn's row."""

    id: int
    conversation_id: str
    position: int
    role: str
    text: str
    time: str | None = None
    rating: float | None = None
    edited: str | None = None
    path: str
    line: int
    chain: str
    key: str


@dataclass(frozen=True, kw_only=True)
class Signal:
    """A place in a conversation that carries a lesson."""

    id: str
    kind: str
    conversation_id: str
    position: int
    source: str
    behaviour: str | None
    strength: float
    state: str
    reason: str
    night_id: str | None = None
    at: str


@dataclass(frozen=True, kw_only=True)
class Node:
    """Something learnt: a behaviour, an episode, a fact or a feeling."""

    id: str
    kind: str
    name: str
    body: dict[str, Any]
    feelings: dict[str, float] = field(default_factory=dict)
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Edge:
    """A relation between two nodes, and the signal that is its evidence."""

    kind: str
    tail_id: str
    head_id: str
    signal_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A behaviour's discounted failures and passes, and the temperature of its next dreams."""

    behaviour: str
    failed: float
    passed: float
    temperature: float


@dataclass(frozen=True, kw_only=True)
class Night:
    """One night: the turns that it hears, the behaviours that it means to improve, and its outcome."""

    id: str
    number: int
    seed: int
    cursor: int
    retry: bool
    targets: list[str] = field(default_factory=list)
    state: str = "running"
    reasons: list[str] = field(default_factory=list)
    started: str
    finished: str | None = None


@dataclass(frozen=True, kw_only=True)
class Dream:
    """A generated scenario that puts one behaviour to the test."""

    id: str
    night_id: str
    behaviour: str
    messages: list[dict[str, str]]
    temperature: float
    seed: int
    nodes: list[str]
    source: str
    refused: str | None = None


@dataclass(frozen=True, kw_only=True)
class HardDream(Dream):
    """A dream with the share of its own attempts that failed."""

    failed: float


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The served model's own answer to a dream, judged."""

    id: str
    dream_id: str
    text: str
    instructed: bool
    temperature: float
    seed: int
    checkpoint_id: str
    passed: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A context with a better and a worse answer."""

    id: str
    behaviour: str
    messages: list[dict[str, str]]
    chosen: str
    rejected: str
    chosen_from: str
    rejected_from: str
    dream_id: str | None
    signal_id: str | None
    source: str
    trust: float
    checkpoint_id: str
    reference_id: str | None = None
    chosen_logprob: float | None = None
    rejected_logprob: float | None = None
    state: str
    night_id: str


@dataclass(frozen=True, kw_only=True)
class PairInUpdate(Pair):
    """A pair with its part in one update."""

    replay: bool
    unlearnt: bool


@dataclass(frozen=True, kw_only=True)
class Update:
    """One scheduled training run."""

    id: str
    night_id: str
    objective: str
    settings: dict[str, Any]
    seed: int
    parent_id: str
    checkpoint_id: str | None = None
    steps: int = 0
    state: str = "planned"
    reasons: list[str] = field(default_factory=list)
    at: str


@dataclass(frozen=True, kw_only=True)
class UpdatePair:
    """The part of a pair in an update: new or replayed; in a merge, taken up or unlearnt."""

    update_id: str
    pair_id: str
    replay: bool
    unlearnt: bool = False


@dataclass(frozen=True, kw_only=True)
class LostPairs:
    """The pairs that an update has lost to one `forget`: the body of an event."""

    pairs: int
    """How many, replay included."""
    replay: int
    nights: list[str]
    """Nights of the pairs that were new in the update."""
    behaviours: list[str]
    """Behaviours of these pairs."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """The metrics of one training step."""

    update_id: str
    step: int
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A version of everything that an update changes."""

    id: str
    parent_id: str | None
    number: int
    weights_sha256: str
    update_id: str | None
    state: str
    at: str
    pinned: bool = False
    pruned: str | None = None


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The outcomes of a behaviour's held-out scenarios, one character each."""

    weights_sha256: str
    behaviour: str
    definition: str = ""
    seed: int
    round: int
    outcomes: str


LEAST_SPREAD = 1e-6
"""Smallest standard deviation that a move is divided by: a concept may read the same on every text."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A concept's score on the probe set, or the perplexity."""

    weights_sha256: str
    name: str
    vectors: str
    """Digest of the concept vectors; for the perplexity the name of its text, "" for the world's talk."""
    mean: float
    spread: float

    def move_to(self, after: "Reading") -> float:
        """Return how far the mean moves to a later reading, in standard deviations of this reading."""
        return (after.mean - self.mean) / max(self.spread, LEAST_SPREAD)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The decision on an update, `keep` or `roll back`, with the reasons."""

    update_id: str
    decision: str
    reasons: list[str]
    tests: list[dict[str, Any]]
    at: str


Record = (
    Signal
    | Node
    | Edge
    | Rate
    | Night
    | Dream
    | Attempt
    | Pair
    | Update
    | UpdatePair
    | Step
    | Checkpoint
    | Measurement
    | Reading
    | Verdict
)

TABLES: dict[type[Any], Table] = {
    StoredConversation: schema.conversations,
    StoredTurn: schema.turns,
    Signal: schema.signals,
    Node: schema.nodes,
    Edge: schema.edges,
    Rate: schema.failure_rates,
    Night: schema.nights,
    Dream: schema.dreams,
    Attempt: schema.attempts,
    Pair: schema.pairs,
    Update: schema.updates,
    UpdatePair: schema.update_pairs,
    Step: schema.steps,
    Checkpoint: schema.checkpoints,
    Measurement: schema.measurements,
    Reading: schema.readings,
    Verdict: schema.verdicts,
}


def save(connection: Connection, records: Iterable[Record]) -> None:
    """Add the records that are not there yet, grouped by table in the order of `TABLES`."""
    by_table: dict[type[Any], list[Record]] = {kind: [] for kind in TABLES}
    for record in records:
        by_table[type(record)].append(record)
    for kind, rows in by_table.items():
        insert(connection, TABLES[kind], rows)


def insert(connection: Connection, table: Table, records: Iterable[Any]) -> None:
    """Add records to a table whose columns are their fields; a row that is there already is left alone."""
    rows = [_values(record) for record in records]
    if rows:
        connection.execute(insert_or_ignore(connection, table), rows)


def insert_or_ignore(connection: Connection, table: Table) -> Any:
    """Return an INSERT, in this database's dialect, that leaves a row alone that is there already."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table).on_conflict_do_nothing()


def extend(kind: type[Wider], record: Any, **more: Any) -> Wider:
    """Return a record of a kind that has the fields of this one and more."""
    return kind(**_values(record), **more)


def _values(record: Any) -> dict[str, Any]:
    """Return a record's fields by name."""
    return {f.name: getattr(record, f.name) for f in fields(record)}
