"""Forgetting: conversations and all that was derived from them, out of the ledger, and which weights they touched.

Invariant: nothing that stays names or quotes what went, except by the digests in `forgotten`, by which an ingest
passes it over; an update keeps its row, its counts and its verdict, and an event says how many of its pairs went.
The weights are not changed here: what they learnt is undone by a rollback. Knows no file.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, func, or_, select

from corpus.errors import GateRefused, UnknownId
from store import queries
from store.conversations.derived import Derived, gather
from store.ledger import schema
from store.ledger.db import now
from store.ledger.records import LostPairs, Update, insert_or_ignore, values_of
from store.ledger.rows import all_of, delete_among
from store.nights import history
from store.queue.outcome import note
from store.readings import readings
from store.task_vectors import merges

SHORTEST_BEGINNING = 4
"""Characters of a conversation's id that may stand for it: one typed by mistake must not take a stranger's away."""
MOST_NAMED = 5
"""Conversations that a message names."""
GONE = "forgotten"
"""What stands where an error quoted what went."""


@dataclass(frozen=True, kw_only=True)
class Touched:
    """An update whose weights learnt from what goes."""

    id: str
    state: str
    checkpoint: str
    pairs: int
    """How many of its pairs were derived from what goes, new or replayed."""
    built_on: str | None
    """For one that has none of them: the first update before it that has."""


@dataclass(frozen=True, kw_only=True)
class Forgetting:
    """What forgetting takes away, or has taken."""

    matched: str
    """As what the name was understood: source, conversation or log."""
    derived: Derived
    updates: tuple[Touched, ...]
    """In the order of their checkpoints."""
    rollback_to: str | None
    """The last kept checkpoint that learnt nothing of it, when one that did is kept; it has its files."""


def look(connection: Connection, wanted: str, path: str) -> Forgetting:
    """What forgetting this would take; `path` is the name as a log file's, as it would be stored."""
    matched, ids = match(connection, wanted, path)
    derived = gather(connection, ids)
    updates = touched(connection, derived)
    return Forgetting(
        matched=matched, derived=derived, updates=updates, rollback_to=_before(connection, updates)
    )  # fmt: skip


def forget(connection: Connection, wanted: str, path: str, *, roll_back: bool = False) -> Forgetting:
    """Remove conversations and what was derived from them; first roll back, if that is wanted and of use."""
    if queries.running_night(connection) is not None:
        raise GateRefused(
            "a night is running, and may be learning from it: wait for it (`nightschool status`)"
        )
    found = look(connection, wanted, path)
    if roll_back and found.rollback_to is not None:
        history.roll_back(connection, found.rollback_to, "rolled back to forget a conversation")
    _remove(connection, found.derived)
    _remember(connection, found)
    return found


def match(connection: Connection, wanted: str, path: str) -> tuple[str, list[str]]:
    """As what a name is understood, and the conversations that it means; a source's own name goes first."""
    c, t = schema.conversations, schema.turns
    of_source = list(connection.execute(select(c.c.id).where(c.c.source == wanted)).scalars())
    if of_source:
        return "source", of_source
    if connection.execute(select(c.c.id).where(c.c.id == wanted)).first() is not None:
        return "conversation", [wanted]
    of_id = _beginning(connection, wanted)
    heard = select(t.c.conversation_id).where(t.c.path == path)
    of_log = list(
        connection.execute(select(c.c.id).where(or_(c.c.path == path, c.c.id.in_(heard)))).scalars()
    )
    if len(of_id) + bool(of_log) > 1:
        named = ", ".join([*of_id[:MOST_NAMED], *(["a log"] if of_log else [])])
        raise UnknownId(
            f"{wanted!r} means more than one thing ({named}): give more of the id, or the log's whole path"
        )
    if of_id:
        return "conversation", of_id
    if of_log:
        return "log", of_log
    raise UnknownId(
        f"nothing is known of {wanted!r}: it is no source, no conversation's id (at least {SHORTEST_BEGINNING} "
        "characters of it) and no log; `nightschool ledger conversations` lists them"
    )


def _beginning(connection: Connection, wanted: str) -> list[str]:
    """The conversations whose id begins so."""
    c = schema.conversations
    if len(wanted) < SHORTEST_BEGINNING:
        return []
    begins = select(c.c.id).where(c.c.id.startswith(wanted, autoescape=True)).order_by(c.c.id)
    return list(connection.execute(begins.limit(MOST_NAMED + 1)).scalars())


# ---------------------------------------------------------------- weights


def touched(connection: Connection, derived: Derived) -> tuple[Touched, ...]:
    """The updates that learnt from these pairs, and those whose weights grew from such weights."""
    pairs: dict[str, int] = {}
    for member in derived.members:
        pairs[member.update_id] = pairs.get(member.update_id, 0) + 1
    u, c = schema.updates, schema.checkpoints
    trained = select(u).join(c, c.c.id == u.c.checkpoint_id).order_by(c.c.number)
    made = all_of(connection, Update, trained)
    origin: dict[str, str] = {}
    learnt = []
    for update in made:  # a parent comes before its children, and what was merged before the merge
        grown_from = [update.parent_id, *merges.ends(update)]
        built_on = next((origin[one] for one in grown_from if one in origin), None)
        count = pairs.get(update.id, 0)
        checkpoint = update.checkpoint_id
        if checkpoint is None or (not count and built_on is None):
            continue
        origin[checkpoint] = built_on or update.id
        learnt.append(
            Touched(
                id=update.id,
                state=update.state,
                checkpoint=checkpoint,
                pairs=count,
                built_on=None if count else built_on,
            )
        )
    return tuple(learnt)


def _before(connection: Connection, updates: tuple[Touched, ...]) -> str | None:
    """The last kept checkpoint before the first kept update that learnt of it, that has its files."""
    first = next((update for update in updates if update.state == "kept"), None)
    if first is None:
        return None
    usable = {row.id for row in queries.kept(connection)}
    line = history.ancestry(connection, first.checkpoint)[1:]
    return next((checkpoint_id for checkpoint_id in line if checkpoint_id in usable), None)


# ---------------------------------------------------------------- rows


def _remove(connection: Connection, derived: Derived) -> None:
    """Delete what goes, from what names it to what is named, and take it off what stays."""
    if connection.dialect.name == "sqlite":  # what is deleted is overwritten, and not only left out
        connection.exec_driver_sql("PRAGMA secure_delete=ON")
    delete_among(connection, schema.update_pairs, "pair_id", derived.pairs)
    delete_among(connection, schema.pairs, "id", derived.pairs)
    readings.forget(connection, derived.turns, derived.attempts)
    delete_among(connection, schema.attempts, "id", derived.attempts)
    delete_among(connection, schema.dreams, "id", derived.dreams)
    e = schema.edges
    for edge in derived.graph.edges:
        ends = (e.c.tail_id == edge.tail_id) & (e.c.head_id == edge.head_id)
        same = ends & (e.c.kind == edge.kind) & (e.c.signal_id == edge.signal_id)
        connection.execute(e.delete().where(same))
    delete_among(connection, schema.signals, "id", derived.signals)
    delete_among(connection, schema.nodes, "id", derived.graph.nodes)
    n = schema.nodes
    for node in derived.graph.lessened:
        values = {"weight": node.weight, "feelings": node.feelings, "body": node.body}
        connection.execute(n.update().where(n.c.id == node.id).values(values))
    delete_among(connection, schema.work, "id", derived.work)
    w = schema.work
    for work_id in derived.errors:
        connection.execute(w.update().where(w.c.id == work_id).values(error=GONE))
    delete_among(connection, schema.events, "seq", derived.events)
    delete_among(connection, schema.turns, "id", derived.turns)
    delete_among(connection, schema.conversations, "id", derived.conversations)
    _lower_cursors(connection)


def _lower_cursors(connection: Connection) -> None:
    """No night has heard a turn that is to come: SQLite gives the ids of the newest turns out again."""
    newest = connection.execute(select(func.max(schema.turns.c.id))).scalar() or 0
    n = schema.nights
    connection.execute(n.update().where(n.c.cursor > newest).values(cursor=newest))


def _remember(connection: Connection, found: Forgetting) -> None:
    """How it is known again, and what an update has lost: figures, and nothing that names it."""
    derived, at = found.derived, now()
    rows = [{"chain": mark, "at": at} for mark in sorted(derived.marks)]
    if rows:
        connection.execute(insert_or_ignore(connection, schema.forgotten), rows)
    for update_id in sorted({member.update_id for member in derived.members}):
        note(connection, "forget", update_id, values_of(_lost(derived, update_id)))
    note(connection, "forget", "", {"matched": found.matched, **counts(derived)})


def _lost(derived: Derived, update_id: str) -> LostPairs:
    """What an update has lost: see `history.set_update` for what the nights and behaviours are kept for."""
    mine = [member for member in derived.members if member.update_id == update_id]
    new = [member for member in mine if not member.replay and not member.unlearnt]
    return LostPairs(
        pairs=len(mine),
        replay=len(mine) - len(new),
        nights=sorted({member.night_id for member in new}),
        behaviours=sorted({member.behaviour for member in new}),
    )


def counts(derived: Derived) -> Mapping[str, int]:
    """How many rows go, by table, and of how many conversations."""
    return {"conversations": len(derived.conversations), **derived.counts()}
