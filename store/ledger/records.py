"""The ledger's records: one frozen class for each kind of row, for reading and for writing.

Invariant: a record's fields are its table's columns (tested); `schema.py` explains each. Most ids are digests
of content made by `identity`: work that is done twice gives the same rows, and `save` stores each once.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

from store.ledger import schema
from store.ledger.placement_trial import PlacementTrial

Wider = TypeVar("Wider")


def identity(*parts: Any) -> str:
    """Return an id of 16 hexadecimal characters: a digest of these values, which must fit into JSON."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def seed_of(*parts: Any) -> int:
    """Return a seed for a random draw: a 31-bit digest of these values, so that a repeat draws the same."""
    return int(identity("seed", *parts), 16) >> 33


@dataclass(frozen=True, kw_only=True)
class StoredConversation:
    """The row of a conversation; each of its turns has a row of its own."""

    id: str
    source: str
    format: str
    key: str
    tail: str
    path: str
    at: str
    copied: int = 0  # leading turns that another conversation has too


@dataclass(frozen=True, kw_only=True)
class StoredTurn:
    """The row of a turn of a conversation."""

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
    structure: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None


@dataclass(frozen=True, kw_only=True)
class Signal:
    """A turn that carries a lesson, such as a correction or an approval."""

    id: str
    kind: str
    conversation_id: str
    position: int
    source: str
    behaviour: str | None
    strength: float
    state: str
    reason: str
    of: str | None = None
    found_by: str = "rules"
    night_id: str | None = None
    at: str


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node of the memory graph: a behaviour, an episode, a fact or a feeling."""

    id: str
    kind: str
    name: str
    body: dict[str, Any]
    feelings: dict[str, float] = field(default_factory=dict)
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Edge:
    """An edge of the memory graph: a relation of two nodes, and the signal that is its evidence."""

    kind: str
    tail_id: str
    head_id: str
    signal_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """The discounted counts of a behaviour's failed and passed attempts, and its next dreams' temperature."""

    behaviour: str
    failed: float
    passed: float
    temperature: float


@dataclass(frozen=True, kw_only=True)
class Night:
    """One night: the last turn that it reads, the behaviours that it is to improve, and its outcome."""

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
    """A generated scenario that tests one behaviour."""

    id: str
    night_id: str
    behaviour: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = field(default_factory=list)
    temperature: float
    seed: int
    nodes: list[str]
    source: str
    form: str = ""
    """The form of the prompt for which the model wrote it (`agents.dreamer.forms`)."""
    refused: str | None = None


@dataclass(frozen=True, kw_only=True)
class DreamCount:
    """The number of dreams of one night and behaviour that have the same form and the same end."""

    night: int
    """Number of the night."""
    behaviour: str
    form: str
    refused: str | None
    """The reason why they are not used; None for those in use."""
    count: int


@dataclass(frozen=True, kw_only=True)
class HardDream(Dream):
    """A dream with the share of its attempts that failed, 0 to 1."""

    failed: float


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """An answer of the served model to a dream, with the judgement of it."""

    id: str
    dream_id: str
    text: str
    instructed: bool
    temperature: float
    seed: int
    checkpoint_id: str
    passed: bool
    reason: str
    told: str | None = None
    placement: str | None = None
    tokens: int = 0
    finished: bool = True
    """Whether the answer ended by itself, not at the limit of tokens."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A training example: a conversation with a better and a worse answer."""

    id: str
    behaviour: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = field(default_factory=list)
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
    """A pair of one update, and whether the update replayed or unlearnt it."""

    replay: bool
    unlearnt: bool


@dataclass(frozen=True, kw_only=True)
class Update:
    """One training run or merge that changes the weights."""

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
    """The use of a pair by an update: new or replayed; in a merge, learnt or unlearnt."""

    update_id: str
    pair_id: str
    replay: bool
    unlearnt: bool = False


@dataclass(frozen=True, kw_only=True)
class LostPairs:
    """The pairs of an update that one `forget` deleted: the body of an event."""

    pairs: int
    """Number of the deleted pairs, replayed ones included."""
    replay: int
    """Number of deleted pairs that were not new in the update."""
    nights: list[str]
    """Nights of the deleted pairs that were new in the update."""
    behaviours: list[str]
    """Behaviours of the deleted pairs that were new in the update."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """The metrics of one training step."""

    update_id: str
    step: int
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint: one version of the weights and of the optimizer state."""

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
    """The outcomes of a behaviour's held-out scenarios, one character for each scenario."""

    weights_sha256: str
    behaviour: str
    definition: str = ""
    seed: int
    round: int
    outcomes: str
    words: dict[str, int] | None = None  # in how many of the answers each word is, if it was counted


LEAST_SPREAD = 1e-6  # smallest divisor of a move: the scores' standard deviation is 0 if all are the same


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The mean score of a concept on the probe set for some weights, or the perplexity of these weights."""

    weights_sha256: str
    name: str
    vectors: str
    """Digest of the concept vectors; for the perplexity its text's name, "" for the world's ordinary talk."""
    mean: float
    spread: float

    def move_to(self, after: "Reading") -> float:
        """Return the mean of a later reading minus this mean, in standard deviations of this reading."""
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
    | PlacementTrial
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
    PlacementTrial: schema.placement_trials,
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
    """Insert the records whose key is not in their table yet, table by table in the order of `TABLES`."""
    by_table: dict[type[Any], list[Record]] = {kind: [] for kind in TABLES}
    for record in records:
        by_table[type(record)].append(record)
    for kind, rows in by_table.items():
        insert(connection, TABLES[kind], rows)


def insert(connection: Connection, table: Table, records: Iterable[Any]) -> None:
    """Insert records into a table whose columns are their fields; rows that exist already stay unchanged."""
    rows = [extend(dict[str, Any], record) for record in records]
    if rows:
        connection.execute(insert_or_ignore(connection, table), rows)


def insert_or_ignore(connection: Connection, table: Table) -> Any:
    """Return an INSERT statement in this database's dialect that leaves existing rows unchanged."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table).on_conflict_do_nothing()


def extend(kind: type[Wider], record: Any, **more: Any) -> Wider:
    """Return a record of class `kind`, with all fields of `record` and those in `more`."""
    return kind(**{f.name: getattr(record, f.name) for f in fields(record)}, **more)
