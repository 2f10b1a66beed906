"""The audit of the ledger: its database, its digests, and its rows against the manifests.

Invariant: this module only reads; every problem is reported in words, with the row. A digest is computed
again from its row: turns by the chain that each continues (whose beginning the ledger does not have), dreams
and attempts by their ids. Pairs are compared with the attempts that they are made of.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise

from sqlalchemy import Connection, func, select

from corpus.conversation import Turn, chain
from corpus.errors import IntegrityFault
from store import queries
from store.checkpoints.store import Manifest
from store.ledger import schema
from store.ledger.records import identity

Chosen = Callable[[str], bool]
"""Whether the row with this id is audited."""
Manifests = Callable[[str], Manifest]
"""The manifest of a checkpoint, by its id."""


def audit(connection: Connection, manifest: Manifests, chosen: Chosen) -> list[str]:
    """Return the problems of the ledger."""
    return [
        *_database(connection),
        *_checkpoints(connection, manifest),
        *_turns(connection, chosen),
        *_dreams(connection, chosen),
        *_attempts(connection, chosen),
        *_pairs(connection, chosen),
    ]


def _database(connection: Connection) -> Iterator[str]:
    """Run SQLite's own checks of its pages, indexes and references."""
    if connection.dialect.name != "sqlite":
        return
    for (result,) in connection.exec_driver_sql("PRAGMA integrity_check"):
        if result != "ok":
            yield f"the database is damaged: {result}"
    for table, row, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check"):
        yield f"row {row} of {table} refers to a row of {parent} that is not there"


def _checkpoints(connection: Connection, manifest: Manifests) -> Iterator[str]:
    """Compare rows with manifests; damaged manifests are reported with the files."""
    rows = {row.id: row for row in queries.checkpoints(connection)}
    for row in rows.values():
        if row.parent_id is not None and row.parent_id not in rows:
            yield f"checkpoint {row.id[:12]} grew from {row.parent_id[:12]}, which is not in the ledger"
        if row.pruned is not None:
            continue
        try:
            written = manifest(row.id)
        except IntegrityFault:
            continue
        for column, stored, value in (
            ("weights_sha256", row.weights_sha256, written.weights),
            ("parent_id", row.parent_id, written.parent),
        ):
            if stored != value:
                yield f"checkpoint {row.id[:12]}: the ledger and its manifest differ in {column}"
    active = queries.active(connection)
    if active.state != "kept" or active.pruned is not None:
        yield f"the active checkpoint {active.id[:12]} is {'pruned' if active.pruned else active.state}"


def _turns(connection: Connection, chosen: Chosen) -> Iterator[str]:
    """Check that each turn continues the chain of the one before."""
    t = schema.turns.c
    columns = (t.conversation_id, t.position, t.role, t.text, t.chain)
    rows = connection.execute(select(*columns).order_by(t.conversation_id, t.position))
    for before, row in pairwise(rows):
        if row.conversation_id != before.conversation_id or not chosen(row.conversation_id):
            continue
        # A client's session repeats its system prompt with changes, which its chain passes over.
        texts = (row.text, "") if row.role == "system" else (row.text,)
        turns = (Turn(role=row.role, text=text, line=0) for text in texts)
        if row.chain not in (chain("", (turn,), tail=before.chain)[0] for turn in turns):
            yield f"turn {row.position} of conversation {row.conversation_id} is not the one that was heard"


def _dreams(connection: Connection, chosen: Chosen) -> Iterator[str]:
    """Check the ids of dreams, which are digests of their requests."""
    d = schema.dreams.c
    for row in connection.execute(select(d.id, d.night_id, d.behaviour, d.seed, d.messages).order_by(d.id)):
        request = row.messages[-1]["content"] if row.messages else ""
        if chosen(row.id) and row.id != "d" + identity(row.night_id, row.behaviour, row.seed, request):
            yield f"dream {row.id} is not the one that was dreamt"


def _attempts(connection: Connection, chosen: Chosen) -> Iterator[str]:
    """Check the ids of attempts, which are digests of their rows."""
    a = schema.attempts.c
    columns = (a.dream_id, a.instructed, a.seed, a.checkpoint_id, a.text)
    for attempt_id, *parts in connection.execute(select(a.id, *columns).order_by(a.id)):
        if chosen(attempt_id) and attempt_id != "a" + identity(*parts):
            yield f"attempt {attempt_id} is not the one that was made"


def _pairs(connection: Connection, chosen: Chosen) -> Iterator[str]:
    """Compare each side that came from an attempt with that attempt's text."""
    p, a = schema.pairs.c, schema.attempts.c
    for side, place in ((p.chosen, p.chosen_from), (p.rejected, p.rejected_from)):
        attempt_id = func.substr(place, func.instr(place, ":") + 1)
        both = select(p.id, side.label("answer"), a.text).join(schema.attempts, a.id == attempt_id)
        for row in connection.execute(both.where(~place.startswith("log:")).order_by(p.id)):
            if chosen(row.id) and row.answer != row.text:
                yield f"pair {row.id} has another {side.name} answer than the attempt that it is made of"
