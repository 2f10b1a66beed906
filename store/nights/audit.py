"""Whether the ledger is what it was: its database, its digests, and what it says of checkpoint files.

Invariant: reads only; every problem is told in words, with the row. What a digest in the ledger was made of is hashed
again: turns by the chain that each continues, dreams and attempts by their ids; pairs are held against the attempts
that they are made of.
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
"""Whether what has this id is looked at."""


def audit(connection: Connection, manifest: Callable[[str], Manifest], chosen: Chosen) -> list[str]:
    """What is wrong with the ledger; manifest: of a checkpoint, by its id."""
    return [
        *_database(connection),
        *_checkpoints(connection, manifest),
        *_turns(connection, chosen),
        *_made(connection, chosen),
        *_pairs(connection, chosen),
    ]


def _database(connection: Connection) -> Iterator[str]:
    """SQLite's own checks of its pages, indexes and references."""
    if connection.dialect.name != "sqlite":
        return
    for (found,) in connection.exec_driver_sql("PRAGMA integrity_check"):
        if found != "ok":
            yield f"the database is damaged: {found}"
    for table, row, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check"):
        yield f"row {row} of {table} refers to a row of {parent} that is not there"


def _checkpoints(connection: Connection, manifest: Callable[[str], Manifest]) -> Iterator[str]:
    """Rows against manifests: those that are damaged are told of with the files."""
    rows = {row["id"]: row for row in queries.checkpoints(connection)}
    for checkpoint_id, row in rows.items():
        if row["parent_id"] is not None and row["parent_id"] not in rows:
            yield f"checkpoint {checkpoint_id[:12]} grew from {row['parent_id'][:12]}, which is not in the ledger"
        if row["pruned"] is not None:
            continue
        try:
            said = manifest(checkpoint_id)
        except IntegrityFault:
            continue
        named = (("weights_sha256", said.weights), ("parent_id", said.parent))
        for column, value in named:
            if value != row[column]:
                yield f"checkpoint {checkpoint_id[:12]}: the ledger and its manifest differ in {column}"
    active = queries.active(connection)
    if active["state"] != "kept" or active["pruned"] is not None:
        yield f"the active checkpoint {active['id'][:12]} is {'pruned' if active['pruned'] else active['state']}"


def _turns(connection: Connection, chosen: Chosen) -> Iterator[str]:
    """Each turn continues the chain of the one before; where the first one's begins is not in the ledger."""
    t = schema.turns.c
    found = connection.execute(
        select(t.conversation_id, t.position, t.role, t.text, t.chain).order_by(t.conversation_id, t.position)
    )
    for before, row in pairwise(found):
        if row.conversation_id != before.conversation_id or not chosen(row.conversation_id):
            continue
        # A client's session repeats its system prompt with changes, which its chain passes over.
        texts = (row.text, "") if row.role == "system" else (row.text,)
        turns = (Turn(role=row.role, text=text, line=0) for text in texts)
        if row.chain not in (chain("", (turn,), tail=before.chain)[0] for turn in turns):
            yield f"turn {row.position} of conversation {row.conversation_id} is not the one that was heard"


def _made(connection: Connection, chosen: Chosen) -> Iterator[str]:
    """Dreams and attempts, whose ids are digests of what they say."""
    d, a = schema.dreams.c, schema.attempts.c
    for row in connection.execute(select(d.id, d.night_id, d.behaviour, d.seed, d.messages).order_by(d.id)):
        said = row.messages[-1]["content"] if row.messages else ""
        if chosen(row.id) and row.id != "d" + identity(row.night_id, row.behaviour, row.seed, said):
            yield f"dream {row.id} is not the one that was dreamt"
    columns = (a.dream_id, a.instructed, a.seed, a.checkpoint_id, a.text)
    for attempt_id, *said in connection.execute(select(a.id, *columns).order_by(a.id)):
        if chosen(attempt_id) and attempt_id != "a" + identity(*said):
            yield f"attempt {attempt_id} is not the one that was made"


def _pairs(connection: Connection, chosen: Chosen) -> Iterator[str]:
    """Each side that is an attempt's says what the attempt says."""
    p, a = schema.pairs.c, schema.attempts.c
    for side, place in ((p.chosen, p.chosen_from), (p.rejected, p.rejected_from)):
        attempt_id = func.substr(place, func.instr(place, ":") + 1)
        made = (
            select(p.id, side.label("said"), a.text).join(schema.attempts, a.id == attempt_id).order_by(p.id)
        )
        for row in connection.execute(made.where(~place.startswith("log:"))):
            if chosen(row.id) and row.said != row.text:
                yield f"pair {row.id} has another {side.name} answer than the attempt that it is made of"
