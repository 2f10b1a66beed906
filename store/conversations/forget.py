"""Forgetting: conversations and everything derived from them leave the ledger.

Invariant: nothing that stays names or quotes what was deleted, except the digests in `forgotten`, by which an
ingest passes it over. An update keeps its row, its counts and its verdict; an event says how many of its
pairs are gone. The weights do not change here: a rollback undoes what they learnt. This module knows nothing
about files.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, func, or_, select

from corpus.errors import GateRefused, UnknownId
from corpus.json_edge import to_json
from store import queries
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
"""Characters of the shortest prefix of an id that is accepted: a slip must not delete another
conversation."""
MOST_NAMED = 5
"""Conversations that a message names at most."""
GONE = "forgotten"
"""The text in place of an error that quoted a deleted turn."""


@dataclass(frozen=True, kw_only=True)
class Touched:
    """An update whose weights learnt from what is forgotten."""

    id: str
    state: str
    checkpoint: str
    pairs: int
    """How many of its pairs are deleted, new or replayed."""
    built_on: str | None
    """For an update without such pairs: the first update before it that has some."""


@dataclass(frozen=True, kw_only=True)
class Forgetting:
    """What forgetting deletes, or has deleted."""

    matched: str
    """How the name was understood: source, conversation or log."""
    derived: Derived
    updates: tuple[Touched, ...]
    """In the order of their checkpoints."""
    rollback_to: str | None
    """The last kept and stored checkpoint that learnt nothing of it; None if no kept one did."""


def look(connection: Connection, wanted: str, path: str) -> Forgetting:
    """Return what forgetting this would delete, and change nothing.

    Args:
        connection: The ledger.
        wanted: A source, a conversation's id or a prefix of it, or a log.
        path: The same name as a log's path, as the ledger would store it.
    """
    matched, ids = match(connection, wanted, path)
    derived = gather(connection, ids)
    updates = touched(connection, derived)
    return Forgetting(
        matched=matched, derived=derived, updates=updates, rollback_to=_before(connection, updates)
    )  # fmt: skip


def forget(connection: Connection, wanted: str, path: str, *, roll_back: bool = False) -> Forgetting:
    """Delete conversations and everything derived from them; first roll back, if that helps."""
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
    """Return how a name is understood, and its conversations; the name of a source goes first."""
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
    """Return the conversations whose id has this prefix."""
    c = schema.conversations
    if len(wanted) < SHORTEST_BEGINNING:
        return []
    query = select(c.c.id).where(c.c.id.startswith(wanted, autoescape=True)).order_by(c.c.id)
    return list(connection.execute(query.limit(MOST_NAMED + 1)).scalars())


# ---------------------------------------------------------------- weights


def touched(connection: Connection, derived: Derived) -> tuple[Touched, ...]:
    """Return the updates that learnt from these pairs, and those that trained on from such weights."""
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
    """Return the last kept and stored checkpoint before the first kept one of these updates."""
    first = next((update for update in updates if update.state == "kept"), None)
    if first is None:
        return None
    usable = {row.id for row in queries.kept(connection)}
    line = history.ancestry(connection, first.checkpoint)[1:]
    return next((checkpoint_id for checkpoint_id in line if checkpoint_id in usable), None)


# ---------------------------------------------------------------- rows


def _delete(connection: Connection, derived: Derived) -> None:
    """Delete the derived rows, in the order of their references, and change those that stay."""
    if connection.dialect.name == "sqlite":  # overwrite what is deleted
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
    """Lower the nights' cursors to the newest turn: SQLite will reuse the ids of the deleted ones."""
    newest = connection.execute(select(func.max(schema.turns.c.id))).scalar() or 0
    n = schema.nights
    connection.execute(n.update().where(n.c.cursor > newest).values(cursor=newest))


def _note(connection: Connection, forgetting: Forgetting) -> None:
    """Save the tombstones, and note how much each update has lost, in figures alone."""
    derived, at = forgetting.derived, now()
    rows = [{"chain": tombstone, "at": at} for tombstone in sorted(derived.tombstones)]
    if rows:
        connection.execute(insert_or_ignore(connection, schema.forgotten), rows)
    for update_id in sorted({member.update_id for member in derived.members}):
        note(connection, "forget", update_id, to_json(_lost(derived, update_id)))
    total = {"conversations": len(derived.conversations), **derived.counts()}
    note(connection, "forget", "", {"matched": forgetting.matched, **total})


def _lost(derived: Derived, update_id: str) -> LostPairs:
    """Return what an update has lost; `history.set_update` needs the nights and behaviours."""
    mine = [member for member in derived.members if member.update_id == update_id]
    new = [member for member in mine if not member.replay and not member.unlearnt]
    return LostPairs(
        pairs=len(mine),
        replay=len(mine) - len(new),
        nights=sorted({member.night_id for member in new}),
        behaviours=sorted({member.behaviour for member in new}),
    )
