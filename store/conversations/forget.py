"""Forgetting: conversations and everything derived from them are deleted from the ledger.

Invariant: no row that stays names or quotes a deleted row. Only the digests in `forgotten` stay, by which an
ingest recognises the conversations and does not add them again. An update keeps its row, its counts and its
verdict; an event records how many of its pairs are deleted. The weights do not change here: only a rollback
undoes what they learnt. This module knows nothing about files.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, func, or_, select

from corpus.errors import GateRefused, UnknownId
from corpus.json_edge import to_json
from store import proposals, queries
from store.conversations.derived import Derived, gather
from store.ledger import schema
from store.ledger.db import now
from store.ledger.records import LostPairs, Update, insert_or_ignore
from store.ledger.rows import all_of, delete_among
from store.nights import history
from store.queue.outcome import note
from store.readings import readings
from store.task_vectors import merges

SHORTEST_BEGINNING = 4
"""Shortest prefix of an id that is accepted, in characters: a typing error must not delete another
conversation."""
MOST_NAMED = 5
"""Most conversations that one message names."""
GONE = "forgotten"
"""The text that replaces an error text that quoted a deleted turn."""


@dataclass(frozen=True, kw_only=True)
class Touched:
    """An update whose weights learnt from forgotten conversations, directly or through its parent."""

    id: str
    state: str
    checkpoint: str
    pairs: int
    """Number of its pairs that are deleted, new or replayed."""
    built_on: str | None
    """For an update without deleted pairs: id of the first update before it that has some. Else None."""


@dataclass(frozen=True, kw_only=True)
class Forgetting:
    """The effects of forgetting some conversations, before or after it is done."""

    matched: str
    """How the user's name for the conversations was understood: source, conversation or log."""
    derived: Derived
    updates: tuple[Touched, ...]
    """The updates that learnt from the conversations, in the order of their checkpoints."""
    rollback_to: str | None
    """The last kept and stored checkpoint from before the first kept update that learnt from them.

    None if no kept update did, or if there is no such checkpoint.
    """


def look(connection: Connection, wanted: str, path: str) -> Forgetting:
    """Return what `forget` would delete, and change nothing.

    Args:
        connection: The ledger.
        wanted: The user's name for the conversations: a source, an id or a prefix of one, or a log.
        path: The same name read as the path of a log, in the form that the ledger stores.
    """
    matched, ids = match(connection, wanted, path)
    derived = gather(connection, ids)
    updates = touched(connection, derived)
    return Forgetting(
        matched=matched, derived=derived, updates=updates, rollback_to=_before(connection, updates)
    )  # fmt: skip


def forget(connection: Connection, wanted: str, path: str, *, roll_back: bool = False) -> Forgetting:
    """Delete conversations and everything derived from them; return what was deleted.

    Args:
        connection: The ledger, in a transaction that writes.
        wanted: As in `look`.
        path: As in `look`.
        roll_back: Whether to roll back first to a checkpoint that did not learn from them, if a kept update
            did.
    """
    if queries.running_night(connection) is not None:
        raise GateRefused(
            "a night is running, and may be learning from it: wait for it (`nightschool status`)"
        )
    forgetting = look(connection, wanted, path)
    if roll_back and forgetting.rollback_to is not None:
        history.roll_back(connection, forgetting.rollback_to, "rolled back to forget a conversation")
    _delete(connection, forgetting.derived)
    _note(connection, forgetting)
    return forgetting


def match(connection: Connection, wanted: str, path: str) -> tuple[str, list[str]]:
    """Return how a name is understood (source, conversation or log) and the ids of its conversations.

    A name that is a source counts as the source, whatever else it may be.

    Args:
        connection: The ledger.
        wanted: As in `look`.
        path: As in `look`.

    Raises:
        UnknownId: The name stands for nothing, or for more than one thing.
    """
    c, t = schema.conversations, schema.turns
    of_source = list(connection.execute(select(c.c.id).where(c.c.source == wanted)).scalars())
    if of_source:
        return "source", of_source
    if connection.execute(select(c.c.id).where(c.c.id == wanted)).first() is not None:
        return "conversation", [wanted]
    of_id = _with_prefix(connection, wanted)
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
        f"nothing is known of {wanted!r}: it is not a source, not a conversation's id "
        f"(at least {SHORTEST_BEGINNING} characters of it) and no log; "
        "`nightschool ledger conversations` lists them"
    )


def _with_prefix(connection: Connection, wanted: str) -> list[str]:
    """Return the ids with this prefix, a few at most; none for a prefix that is too short."""
    c = schema.conversations
    if len(wanted) < SHORTEST_BEGINNING:
        return []
    query = select(c.c.id).where(c.c.id.startswith(wanted, autoescape=True)).order_by(c.c.id)
    return list(connection.execute(query.limit(MOST_NAMED + 1)).scalars())


# ---------------------------------------------------------------- weights


def touched(connection: Connection, derived: Derived) -> tuple[Touched, ...]:
    """Return the updates that learnt from deleted pairs, and the updates that were built on these.

    They are in the order of their checkpoints.
    """
    pairs: dict[str, int] = {}
    for member in derived.members:
        pairs[member.update_id] = pairs.get(member.update_id, 0) + 1
    u, c = schema.updates, schema.checkpoints
    trained = select(u).join(c, c.c.id == u.c.checkpoint_id).order_by(c.c.number)
    made = all_of(connection, Update, trained)
    origin: dict[str, str] = {}
    learnt = []
    for update in made:  # parents come before their children, and merged updates before the merge
        grown_from = [update.parent_id, *merges.ends(update)]
        built_on = next((origin[parent] for parent in grown_from if parent in origin), None)
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
    """Return the last kept and stored checkpoint before the first kept update among these.

    Returns:
        None if none of the updates is kept, or if there is no such checkpoint.
    """
    first = next((update for update in updates if update.state == "kept"), None)
    if first is None:
        return None
    usable = {row.id for row in queries.kept(connection)}
    line = history.ancestry(connection, first.checkpoint)[1:]
    return next((checkpoint_id for checkpoint_id in line if checkpoint_id in usable), None)


# ---------------------------------------------------------------- rows


def _delete(connection: Connection, derived: Derived) -> None:
    """Delete the derived rows, each before the rows that it refers to, and change the rows that stay."""
    if connection.dialect.name == "sqlite":  # overwrite the deleted content on the disk
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
    proposals.forget(connection, derived.signals)
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
    """Lower the nights' cursors to the newest turn, because SQLite reuses the ids of deleted turns."""
    newest = connection.execute(select(func.max(schema.turns.c.id))).scalar() or 0
    n = schema.nights
    connection.execute(n.update().where(n.c.cursor > newest).values(cursor=newest))


def _note(connection: Connection, forgetting: Forgetting) -> None:
    """Save the tombstones, and add events with the number of pairs that each update has lost."""
    derived, at = forgetting.derived, now()
    rows = [{"chain": tombstone, "at": at} for tombstone in sorted(derived.tombstones)]
    if rows:
        connection.execute(insert_or_ignore(connection, schema.forgotten), rows)
    for update_id in sorted({member.update_id for member in derived.members}):
        note(connection, "forget", update_id, to_json(_lost(derived, update_id)))
    total = {"conversations": len(derived.conversations), **derived.counts()}
    note(connection, "forget", "", {"matched": forgetting.matched, **total})


def _lost(derived: Derived, update_id: str) -> LostPairs:
    """Return the pairs that an update has lost; `history.set_update` needs their nights and behaviours."""
    mine = [member for member in derived.members if member.update_id == update_id]
    new = [member for member in mine if not member.replay and not member.unlearnt]
    return LostPairs(
        pairs=len(mine),
        replay=len(mine) - len(new),
        nights=sorted({member.night_id for member in new}),
        behaviours=sorted({member.behaviour for member in new}),
    )
