"""Nights, verdicts and rollbacks as transactions: who is active, what is kept, what is undone.

Invariant: the active checkpoint is the last row of `pointers`; an update is kept exactly while its checkpoint
is an ancestor of the active one (or it); a pair is used exactly while the last kept update that names it as its
own learnt it, and its signals say the same. A rollback adds a pointer and takes nothing away, so it can itself be
rolled back.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, func, select

from corpus.errors import GateRefused, UnknownId
from store import queries
from store.ledger import schema
from store.ledger.db import now
from store.ledger.records import Checkpoint, Night, PairInUpdate, Update, save
from store.ledger.rows import all_of
from store.queue.outcome import Change, apply, note
from store.queue.work import enqueue, withdraw

UNDECIDED = ("planned", "trained")
"""States of an update that has come to no verdict."""


def add_base(connection: Connection, checkpoint_id: str, weights_sha256: str, model_digest: str = "") -> None:
    """Record checkpoint 0, and of which model it is, and make it active; the same one is recorded once."""
    table = schema.checkpoints
    if connection.execute(select(table.c.id)).first() is None:
        row = {"id": checkpoint_id, "weights_sha256": weights_sha256, "state": "kept", "number": 0}
        connection.execute(table.insert().values(**row, at=now()))
        connection.execute(schema.meta.insert().values(key="model", value=model_digest))
        point(connection, checkpoint_id, "base")


def point(connection: Connection, checkpoint_id: str, why: str) -> None:
    """Make a checkpoint the active one."""
    connection.execute(schema.pointers.insert().values(checkpoint_id=checkpoint_id, why=why, at=now()))
    note(connection, "pointer", checkpoint_id, {"why": why})


def begin_night(connection: Connection, *, seed: int, retry: bool) -> str:
    """Begin a night over all turns heard so far; a night that is still running goes on instead."""
    running = queries.running_night(connection)
    if running is not None:
        return running.id
    night_id = add_night(connection, seed=seed, cursor=queries.cursor(connection), retry=retry)
    if retry:
        for table in ("pairs", "signals"):
            apply(connection, Change(table=table, where={"state": "undone"}, values={"state": "new"}))
    enqueue(connection, "plan", "night", night_id)
    note(connection, "night", night_id, {"begun": True, "seed": seed, "retry": retry})
    return night_id


def add_night(
    connection: Connection, *, seed: int, cursor: int, retry: bool = False, targets: Sequence[str] = ()
) -> str:
    """Add the row of a new night, which is running; returns its id."""
    number = int(connection.execute(select(func.count()).select_from(schema.nights)).scalar() or 0) + 1
    night = Night(
        id=f"n{number}",
        number=number,
        seed=seed,
        cursor=cursor,
        retry=retry,
        targets=list(targets),
        started=now(),
    )
    save(connection, [night])
    return night.id


def ancestry(connection: Connection, checkpoint_id: str) -> list[str]:
    """The checkpoint and those it grew from, newest first."""
    parents = {row.id: row.parent_id for row in queries.checkpoints(connection)}
    line: list[str] = []
    current: str | None = checkpoint_id
    while current is not None:
        line.append(current)
        current = parents[current]
    return line


def nearest(connection: Connection, checkpoint_id: str) -> list[str]:
    """The other checkpoints that one may go back to, nearest first.

    First those that it grew from, then those that grew from it, then those of other lines, by number.
    """
    rows = {row.id: row for row in queries.checkpoints(connection)}
    lines = {other: ancestry(connection, other) for other in rows}
    number = rows[checkpoint_id].number

    def distance(other: str) -> tuple[int, int]:
        if other in lines[checkpoint_id]:
            return 0, lines[checkpoint_id].index(other)
        if checkpoint_id in lines[other]:
            return 1, lines[other].index(checkpoint_id)
        return 2, abs(rows[other].number - number)

    usable = [row.id for row in queries.kept(connection) if row.id != checkpoint_id]
    return sorted(usable, key=distance)


def default_target(connection: Connection) -> str:
    """The kept checkpoint before the active one."""
    active = queries.active(connection)
    if active.parent_id is None:
        raise GateRefused("the active checkpoint is checkpoint 0, the base: there is nothing before it")
    return active.parent_id


def undone_by(connection: Connection, target_id: str) -> list[Update]:
    """Return the updates that are kept now and would not be with this checkpoint active."""
    line = ancestry(connection, target_id)
    return [update for update in _updates(connection, "kept") if update.checkpoint_id not in line]


def restored_by(connection: Connection, target_id: str) -> list[Update]:
    """Return the updates that are undone now and would be kept with this checkpoint active."""
    line = ancestry(connection, target_id)
    return [update for update in _updates(connection, "undone") if update.checkpoint_id in line]


def _updates(connection: Connection, state: str) -> list[Update]:
    """Return the updates in this state, by id."""
    t = schema.updates
    return all_of(connection, Update, select(t).where(t.c.state == state).order_by(t.c.id))


def roll_back(connection: Connection, target_id: str, why: str) -> list[str]:
    """Point at a kept checkpoint; returns the ids of the updates that this undid."""
    if queries.running_night(connection) is not None:
        raise GateRefused(
            "a night is running: wait for it (`nightschool status`), or end it: `nightschool rollback --now`, or "
            "`nightschool cancel` while its update is being trained"
        )
    return _go_back(connection, target_id, why)


def _go_back(connection: Connection, target_id: str, why: str) -> list[str]:
    """See `roll_back`."""
    target = queries.checkpoint(connection, target_id)
    if target.state != "kept":
        raise GateRefused(f"checkpoint {target_id[:12]} was not kept by its verdict; choose a kept one")
    queries.require_stored(connection, target)
    if queries.active(connection).id == target_id:
        raise UnknownId(f"checkpoint {target_id[:12]} is the active one already")
    lost = undone_by(connection, target_id)
    for update in lost:
        set_update(connection, update.id, "undone", [why])
    for update in restored_by(connection, target_id):
        set_update(connection, update.id, "kept", ["taken back up by hand"])
    point(connection, target_id, why)
    return [update.id for update in lost]


def roll_back_now(connection: Connection, target_id: str, why: str, *, settles: bool) -> None:
    """As `roll_back`, once the night that runs has been ended; then the target may be the active one.

    settles: somebody is there to do the night's `settle`, with which it is closed; else it is closed at once.
    """
    night = queries.running_night(connection)
    if night is not None:
        end_night(connection, night_id=night.id, why=why, settles=settles)
    if night is None or queries.active(connection).id != target_id:
        _go_back(connection, target_id, why)


def end_night(connection: Connection, *, night_id: str, why: str, settles: bool) -> None:
    """End a night before its time: its work is withdrawn, and an update that came to no verdict is undone."""
    withdraw(connection, night_id, why)
    update = queries.update_of(connection, night_id)
    if update is not None and update.state in UNDECIDED:
        _undo(connection, update, [why])
    elif update is None:
        reasons = [*queries.night(connection, night_id).reasons, why]
        apply(connection, Change(table="nights", where={"id": night_id}, values={"reasons": reasons}))
    if settles:
        again = {"state": "ready", "error": None}
        enqueue(connection, "settle", "night", night_id)
        apply(connection, Change(table="work", where={"kind": "settle", "night_id": night_id}, values=again))
    else:
        close_night(connection, night_id=night_id)


def set_update(connection: Connection, update_id: str, state: str, reasons: list[str]) -> None:
    """Keep or undo an update; its new pairs, and the signals that it learnt from, follow."""
    update = {"state": state, "reasons": reasons}
    apply(connection, Change(table="updates", where={"id": update_id}, values=update))
    pairs = [pair for pair in queries.pairs_of(connection, update_id) if not pair.replay]
    # The lessons of others that made no pair follow the update, also when all its own pairs were forgotten.
    lost = [
        (night_id, behaviour)
        for lost in queries.lost_by(connection, update_id)
        for night_id in lost.nights
        for behaviour in lost.behaviours
    ]
    _set_pairs(connection, pairs, lost, kept=state == "kept")


def _set_pairs(
    connection: Connection, pairs: Sequence[PairInUpdate], lost: list[tuple[str, str]], *, kept: bool
) -> None:
    """Set these pairs and their signals to what the kept updates say of them.

    Merges may name a pair that another update has learnt: the last kept one on the line has the word. A pair that
    none has learnt, or that a merge unlearnt, is set aside until `night --retry`: the next night would otherwise do
    again what somebody has just undone. lost: night and behaviour of what was forgotten of an update, kept or not.
    """
    last = queries.learnt_pairs(connection, [pair.id for pair in pairs])
    for learnt, of_pairs, of_signals in ((False, "undone", "undone"), (True, "used", "learnt")):
        these = [pair for pair in pairs if (last.get(pair.id) is False) == learnt]
        where = {"id": [pair.id for pair in these]}
        apply(connection, Change(table="pairs", where=where, values={"state": of_pairs}))
        lessons = [(pair.night_id, pair.behaviour) for pair in these] + (lost if kept == learnt else [])
        night_ids, names = sorted({night for night, _ in lessons}), sorted({name for _, name in lessons})
        for before in ("new", "learnt", "undone"):
            lessons_in = {"night_id": night_ids, "behaviour": names, "state": before}
            apply(connection, Change(table="signals", where=lessons_in, values={"state": of_signals}))


def carry_out(connection: Connection, *, update: Update, decision: str, reasons: list[str]) -> None:
    """Make a verdict true: `keep` moves the pointer to the candidate, `roll back` leaves it."""
    state = "kept" if decision == "keep" else "undone"
    where = {"id": update.checkpoint_id}
    apply(connection, Change(table="checkpoints", where=where, values={"state": state}))
    set_update(connection, update.id, state, reasons)
    if decision == "keep" and update.checkpoint_id is not None:
        point(connection, update.checkpoint_id, f"update {update.id} was kept")


def close_night(connection: Connection, *, night_id: str) -> None:
    """End a night with its reasons; an update that came to no verdict is undone."""
    night = queries.night(connection, night_id)
    update = queries.update_of(connection, night_id)
    reasons = list(night.reasons)
    if update is not None and update.state in UNDECIDED:
        why = ["the night could not be finished: see what was set aside in `nightschool status`"]
        _undo(connection, update, why)
        reasons += why
    elif update is not None:
        reasons += update.reasons
    if (update is None or update.state != "kept") and _has_failures(connection, night_id):
        again = {"night_id": night_id, "state": "new"}
        apply(connection, Change(table="signals", where=again, values={"night_id": None}))
    values = {"state": "done", "reasons": reasons, "finished": now()}
    apply(connection, Change(table="nights", where={"id": night_id}, values=values))
    note(connection, "night", night_id, {"ended": True, "reasons": reasons})


def _undo(connection: Connection, update: Update, why: list[str]) -> None:
    """Undo an update that came to no verdict, with its candidate if it has one."""
    set_update(connection, update.id, "undone", why)
    where = {"id": update.checkpoint_id}
    apply(connection, Change(table="checkpoints", where=where, values={"state": "undone"}))


def _has_failures(connection: Connection, night_id: str) -> bool:
    """Whether some work of a night was set aside or withdrawn: what it did not get to is a lesson for another."""
    t = schema.work
    failed = select(t.c.id).where((t.c.night_id == night_id) & t.c.state.in_(("set_aside", "withdrawn")))
    return connection.execute(failed).first() is not None


def set_paused(connection: Connection, paused: bool) -> None:
    """Whether nights may begin by themselves; a pause also has the update of a running night wait."""
    connection.execute(schema.meta.delete().where(schema.meta.c.key == "paused"))
    connection.execute(schema.meta.insert().values(key="paused", value=str(int(paused))))
    note(connection, "paused" if paused else "resumed", "", {})


def set_pinned(connection: Connection, wanted: str, pinned: bool) -> Checkpoint:
    """Pin a checkpoint, so that `prune` never takes it, or unpin it; returns its row as it was before."""
    row = queries.checkpoint(connection, wanted)
    queries.require_stored(connection, row)
    if row.pinned != pinned:
        apply(connection, Change(table="checkpoints", where={"id": row.id}, values={"pinned": pinned}))
        note(connection, "pinned" if pinned else "unpinned", row.id, {"number": row.number})
    return row


def set_pruned(connection: Connection, ids: list[str], policy: dict[str, int]) -> None:
    """Give up the files of these checkpoints; their rows, and all that was measured, stay."""
    apply(connection, Change(table="checkpoints", where={"id": ids}, values={"pruned": now()}))
    for checkpoint_id in ids:
        note(connection, "pruned", checkpoint_id, dict(policy))
