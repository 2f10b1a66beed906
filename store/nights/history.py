"""Nights, verdicts and rollbacks as transactions, which set the states of checkpoints, updates and pairs.

Invariant: the last row of `pointers` names the active checkpoint. An update is `kept` exactly while its
checkpoint is the active one or an ancestor of it. A new pair of an update is `used` exactly while the last
kept update that has it as a new pair taught it and did not unlearn it; its signals follow its state. A
rollback adds a pointer and deletes nothing, so a rollback can be undone by another.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, func, select

from corpus.errors import GateRefused, UnknownId
from store import queries
from store.conversations import privacy
from store.ledger import meta, schema
from store.ledger.db import now
from store.ledger.records import Checkpoint, Night, PairInUpdate, Update, save
from store.ledger.rows import all_of
from store.queue.outcome import Change, apply, note
from store.queue.work import enqueue, withdraw

UNDECIDED = ("planned", "trained")
"""States of an update without a verdict."""


def add_base(connection: Connection, checkpoint_id: str, weights_sha256: str, model_digest: str = "") -> None:
    """Add checkpoint 0 and make it active, unless the ledger has checkpoints already.

    Args:
        connection: The ledger, in a transaction that writes.
        checkpoint_id: Id of checkpoint 0.
        weights_sha256: Digest of its weights.
        model_digest: Digest of the model that the weights came from.
    """
    table = schema.checkpoints
    if connection.execute(select(table.c.id)).first() is None:
        row = {"id": checkpoint_id, "weights_sha256": weights_sha256, "state": "kept", "number": 0}
        connection.execute(table.insert().values(**row, at=now()))
        meta.put(connection, "model", model_digest)
        privacy.begin(connection)
        point(connection, checkpoint_id, "base")


def point(connection: Connection, checkpoint_id: str, why: str) -> None:
    """Make a checkpoint the active one."""
    connection.execute(schema.pointers.insert().values(checkpoint_id=checkpoint_id, why=why, at=now()))
    note(connection, "pointer", checkpoint_id, {"why": why})


def begin_night(connection: Connection, *, seed: int, retry: bool) -> str:
    """Begin a night over all stored turns and return its id; return a running night's id if there is one.

    Args:
        connection: The ledger, in a transaction that writes.
        seed: The seed of all random draws of the night.
        retry: Whether to make undone pairs and signals new again.
    """
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
    """Add the row of a new night in the state `running`, and return its id.

    Args:
        connection: The ledger, in a transaction that writes.
        seed: The seed of all random draws of the night.
        cursor: Id of the last turn that the night reads.
        retry: Whether undone pairs and signals were made new for this night.
        targets: The behaviours that the night is to improve, if they are known.
    """
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
    """Return the ids of the checkpoint and its ancestors, newest first."""
    parents = {row.id: row.parent_id for row in queries.checkpoints(connection)}
    line: list[str] = []
    current: str | None = checkpoint_id
    while current is not None:
        line.append(current)
        current = parents[current]
    return line


def nearest(connection: Connection, checkpoint_id: str) -> list[str]:
    """Return the ids of the other checkpoints to which a rollback may go, nearest first.

    First come its ancestors, then its descendants, then those of other lines by their numbers.
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
    """Return the id of the active checkpoint's parent; raise GateRefused for checkpoint 0."""
    active = queries.active(connection)
    if active.parent_id is None:
        raise GateRefused("the active checkpoint is checkpoint 0, the base: there is nothing before it")
    return active.parent_id


def undone_by(connection: Connection, target_id: str) -> list[Update]:
    """Return the updates that are kept now and would be undone if this checkpoint were active."""
    line = ancestry(connection, target_id)
    return [update for update in _updates(connection, "kept") if update.checkpoint_id not in line]


def restored_by(connection: Connection, target_id: str) -> list[Update]:
    """Return the updates that are undone now and would be kept if this checkpoint were active."""
    line = ancestry(connection, target_id)
    return [update for update in _updates(connection, "undone") if update.checkpoint_id in line]


def _updates(connection: Connection, state: str) -> list[Update]:
    """Return the updates in this state, sorted by id."""
    t = schema.updates
    return all_of(connection, Update, select(t).where(t.c.state == state).order_by(t.c.id))


def roll_back(connection: Connection, target_id: str, why: str) -> list[str]:
    """Make a kept checkpoint the active one, and return the ids of the updates that this undid.

    Args:
        connection: The ledger, in a transaction that writes.
        target_id: The checkpoint.
        why: The reason, for the ledger.

    Raises:
        GateRefused: A night is running, or the checkpoint was not kept or is pruned.
        UnknownId: The checkpoint is active already, or unknown.
    """
    if queries.running_night(connection) is not None:
        raise GateRefused(
            "a night is running: wait for it (`nightschool status`), or end it: "
            "`nightschool rollback --now`, or `nightschool cancel` while its update is being trained"
        )
    return _activate(connection, target_id, why)


def _activate(connection: Connection, target_id: str, why: str) -> list[str]:
    """Do what `roll_back` does, even while a night is running."""
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
    """End the running night, if there is one, and then roll back.

    If a night was ended, the target may be the active checkpoint itself.

    Args:
        connection: The ledger, in a transaction that writes.
        target_id: The checkpoint to make active.
        why: The reason, for the ledger.
        settles: Whether a running service will do the night's `settle` work, which closes the night. If
            not, the night is closed at once.
    """
    night = queries.running_night(connection)
    if night is not None:
        end_night(connection, night_id=night.id, why=why, settles=settles)
    if night is None or queries.active(connection).id != target_id:
        _activate(connection, target_id, why)


def end_night(connection: Connection, *, night_id: str, why: str, settles: bool) -> None:
    """End a night early: withdraw its work, and undo its update if the update has no verdict yet.

    Args:
        connection: The ledger, in a transaction that writes.
        night_id: The night.
        why: The reason, for the ledger.
        settles: As in `roll_back_now`.
    """
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
    """Set the state of an update, and then the states of its new pairs and of their signals.

    Args:
        connection: The ledger, in a transaction that writes.
        update_id: The update.
        state: `kept` or `undone`.
        reasons: The reasons, for the ledger.
    """
    update = {"state": state, "reasons": reasons}
    apply(connection, Change(table="updates", where={"id": update_id}, values=update))
    pairs = [pair for pair in queries.pairs_of(connection, update_id) if not pair.replay]
    # Signals that gave no pair follow the update too, even if all its own pairs were forgotten.
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
    """Set the states of these pairs and of their signals to what the kept updates have taught.

    If several updates have a pair as a new one, as a merge and a part of it do, the last kept update decides.
    A pair that no kept update taught, or that a merge unlearnt, becomes `undone` and waits for
    `night --retry`. Otherwise the next night would learn again what a user has undone.

    Args:
        connection: The ledger, in a transaction that writes.
        pairs: The new pairs of one update.
        lost: (night id, behaviour) of the update's forgotten pairs, whose signals follow the update.
        kept: Whether the update is kept.
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
    """Carry out a verdict on an update.

    Args:
        connection: The ledger, in a transaction that writes.
        update: The update, which has been trained.
        decision: `keep` makes the update's checkpoint the active one; `roll back` marks it as undone.
        reasons: The reasons of the verdict.
    """
    state = "kept" if decision == "keep" else "undone"
    where = {"id": update.checkpoint_id}
    apply(connection, Change(table="checkpoints", where=where, values={"state": state}))
    set_update(connection, update.id, state, reasons)
    if decision == "keep" and update.checkpoint_id is not None:
        point(connection, update.checkpoint_id, f"update {update.id} was kept")


def close_night(connection: Connection, *, night_id: str) -> None:
    """Close a night with its reasons, and undo its update if the update has no verdict."""
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
    """Mark an update without a verdict as undone, and its candidate checkpoint if it has one."""
    set_update(connection, update.id, "undone", why)
    where = {"id": update.checkpoint_id}
    apply(connection, Change(table="checkpoints", where=where, values={"state": "undone"}))


def _has_failures(connection: Connection, night_id: str) -> bool:
    """Return whether some of a night's work was quarantined or withdrawn.

    If so, the night's lessons are left for another night.
    """
    t = schema.work
    failed = select(t.c.id).where((t.c.night_id == night_id) & t.c.state.in_(("set_aside", "withdrawn")))
    return connection.execute(failed).first() is not None


def set_paused(connection: Connection, paused: bool) -> None:
    """Pause or resume the schedule; a pause also holds up the update of a running night."""
    meta.put(connection, "paused", str(int(paused)))
    note(connection, "paused" if paused else "resumed", "", {})


def set_pinned(connection: Connection, wanted: str, pinned: bool) -> Checkpoint:
    """Pin or unpin a checkpoint, and return its row as it was before; `prune` never removes a pinned one.

    Args:
        connection: The ledger, in a transaction that writes.
        wanted: The checkpoint, as `queries.checkpoint` takes it.
        pinned: Whether to pin it.
    """
    row = queries.checkpoint(connection, wanted)
    queries.require_stored(connection, row)
    if row.pinned != pinned:
        apply(connection, Change(table="checkpoints", where={"id": row.id}, values={"pinned": pinned}))
        note(connection, "pinned" if pinned else "unpinned", row.id, {"number": row.number})
    return row


def set_pruned(connection: Connection, ids: list[str], policy: dict[str, int]) -> None:
    """Mark these checkpoints as pruned; their rows and measurements stay.

    Args:
        connection: The ledger, in a transaction that writes.
        ids: The checkpoints.
        policy: The rules of the policy by name, for the events.
    """
    apply(connection, Change(table="checkpoints", where={"id": ids}, values={"pruned": now()}))
    for checkpoint_id in ids:
        note(connection, "pruned", checkpoint_id, dict(policy))
