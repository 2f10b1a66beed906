"""The audit of the ledger: its database, its digests, and its rows against the manifests.

Invariant: this module only reads. It reports every problem as a sentence that names the row. Digests are
computed again from the rows: the chain digest of each turn from the turn before it (the first turn of a
conversation cannot be checked), and the ids of dreams and attempts. Pairs are compared with the attempts from
which they were made.
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
"""A function that takes a row's id and returns whether to audit the row."""
Manifests = Callable[[str], Manifest]
"""A function that takes a checkpoint's id and returns its manifest."""


def audit(connection: Connection, manifest: Manifests, chosen: Chosen) -> list[str]:
    """Return the problems of the ledger, each as a sentence; [] if there are none.

    Args:
        connection: The ledger.
        manifest: Reads the manifest of a checkpoint.
        chosen: Says which conversations, dreams, attempts and pairs to audit, by id.
    """
    return [
        *_database(connection),
        *_checkpoints(connection, manifest),
        *_turns(connection, chosen),
        *_dreams(connection, chosen),
        *_attempts(connection, chosen),
        *_pairs(connection, chosen),
    ]


def _database(connection: Connection) -> Iterator[str]:
    """Yield the problems that SQLite's own checks of pages, indexes and references find."""
    if connection.dialect.name != "sqlite":
        return
    for (result,) in connection.exec_driver_sql("PRAGMA integrity_check"):
        if result != "ok":
            yield f"the database is damaged: {result}"
    for table, row, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check"):
        yield f"row {row} of {table} refers to a row of {parent} that is not there"


def _checkpoints(connection: Connection, manifest: Manifests) -> Iterator[str]:
    """Yield the differences between checkpoint rows and manifests.

    A damaged manifest is skipped, because the check of the files reports it.
    """
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
    """Yield the turns whose chain digest does not follow from the turn before."""
    t = schema.turns.c
    columns = (t.conversation_id, t.position, t.role, t.text, t.chain)
    rows = connection.execute(select(*columns).order_by(t.conversation_id, t.position))
    for before, row in pairwise(rows):
        if row.conversation_id != before.conversation_id or not chosen(row.conversation_id):
            continue
        # A client's session repeats its system prompt with changes, so the chain does not include its text.
        texts = (row.text, "") if row.role == "system" else (row.text,)
        turns = (Turn(role=row.role, text=text, line=0) for text in texts)
        if row.chain not in (chain("", (turn,), tail=before.chain)[0] for turn in turns):
            yield f"turn {row.position} of conversation {row.conversation_id} is not the one that was heard"


def _dreams(connection: Connection, chosen: Chosen) -> Iterator[str]:
    """Yield the dreams whose id is not the digest of their row."""
    d = schema.dreams.c
    columns = (d.id, d.night_id, d.behaviour, d.seed, d.messages, d.tools)
    for row in connection.execute(select(*columns).order_by(d.id)):
        request = row.messages[-1]["content"] if row.messages else ""
        content = (row.night_id, row.behaviour, row.seed, request, *row.messages[:-1], *row.tools)
        if chosen(row.id) and row.id != "d" + identity(*content):
            yield f"dream {row.id} is not the one that was dreamt"


def _attempts(connection: Connection, chosen: Chosen) -> Iterator[str]:
    """Yield the attempts whose id is not the digest of their row."""
    a = schema.attempts.c
    columns = (a.dream_id, a.instructed, a.seed, a.checkpoint_id, a.text)
    for attempt_id, *parts in connection.execute(select(a.id, *columns).order_by(a.id)):
        if chosen(attempt_id) and attempt_id != "a" + identity(*parts):
            yield f"attempt {attempt_id} is not the one that was made"


def _pairs(connection: Connection, chosen: Chosen) -> Iterator[str]:
    """Yield the pairs with an answer that differs from the text of the attempt that it came from."""
    p, a = schema.pairs.c, schema.attempts.c
    for side, place in ((p.chosen, p.chosen_from), (p.rejected, p.rejected_from)):
        attempt_id = func.substr(place, func.instr(place, ":") + 1)
        both = select(p.id, side.label("answer"), a.text).join(schema.attempts, a.id == attempt_id)
        for row in connection.execute(both.where(~place.startswith("log:")).order_by(p.id)):
            if chosen(row.id) and row.answer != row.text:
                yield f"pair {row.id} has another {side.name} answer than the attempt that it is made of"
