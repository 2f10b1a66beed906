"""Make an undone update again without the source that spoilt it, so that the other sources still teach.

After an update, some words may be more frequent in held-out answers because one source brought them
(`store.nights.influence`). If a verdict undoes such an update, another night makes the same update from the
pairs of the other sources.

Invariant: this happens once: a night that makes an update again is not followed by another such night. It is
a night like any other, with its own verdict; what was measured before the update is in the ledger already.
"""

from dataclasses import asdict

from sqlalchemy import Connection

from loop.night import flow
from loop.night.context import NightContext
from store import queries
from store.ledger.db import now
from store.ledger.records import Night, PairInUpdate, Update, UpdatePair, save, seed_of
from store.nights import history, influence
from store.queue.outcome import Change, apply, note
from store.queue.work import enqueue


def begin(connection: Connection, context: NightContext, night_id: str) -> None:
    """Begin the night that makes this closed night's update again, if there is reason to.

    If the closed night itself was such a repetition, the lessons of the source that was left out become
    undone again, because the repeated update has not taught them.

    Args:
        connection: The ledger, in a transaction that writes, in which the night was closed.
        context: The opened home.
        night_id: The night.
    """
    repeated = queries.repeated_by(connection, night_id)
    if repeated is not None:
        _leave_out(connection, *repeated)
        return
    night, update = queries.night(connection, night_id), queries.update_of(connection, night_id)
    if update is None or update.state != "undone" or update.objective == "merge":
        return
    found = _suspect(connection, night, update)
    if found is None or queries.active(connection).id != update.parent_id:
        return
    source, words = found
    members = [
        pair for pair in queries.pairs_of(connection, update.id) if pair.replay or pair.source != source
    ]
    new = [pair for pair in members if not pair.replay]
    pairs = context.settings.pairs
    teaching = sum(pair.behaviour not in context.counters() for pair in new)
    if teaching < pairs.minimum:
        return
    why = f"made again without the pairs of {source}, which brought {', '.join(words)} into the answers"
    _plan(connection, context, night, update, members, source, why)


def _suspect(connection: Connection, night: Night, update: Update) -> tuple[str, list[str]] | None:
    """Return the source that brought words into the answers, and these words; None if there is none."""
    verdict = queries.verdict(connection, update.id)
    if verdict is None or update.checkpoint_id is None:
        return None
    weights = queries.weights_around(connection, update)
    grown = influence.grown_words(connection, update, weights, night.seed)
    source = influence.suspect(grown)
    if source is None:
        return None
    return source, [repr(one.word) for one in grown if source in one.brought_by]


def _plan(
    connection: Connection,
    context: NightContext,
    night: Night,
    update: Update,
    members: list[PairInUpdate],
    source: str,
    why: str,
) -> None:
    """Add the night, its update and its first work.

    Args:
        connection: The ledger, in a transaction that writes.
        context: The opened home.
        night: The night whose update was undone.
        update: That update.
        members: Its pairs without those of the source.
        source: The source that is left out.
        why: The reason, for the user.
    """
    targets = sorted({pair.behaviour for pair in members if not pair.replay} & set(night.targets))
    again = history.add_night(connection, seed=night.seed, cursor=night.cursor, targets=targets)
    apply(connection, Change(table="nights", where={"id": again}, values={"reasons": [why]}))
    repeat = Update(
        id=f"u{again[1:]}",
        night_id=again,
        objective=update.objective,
        settings=asdict(context.training(len(members))),
        seed=seed_of(night.seed, "train", again),
        parent_id=update.parent_id,
        at=now(),
    )
    rows = [UpdatePair(update_id=repeat.id, pair_id=pair.id, replay=pair.replay) for pair in members]
    save(connection, [repeat, *rows])
    for kind, subject in flow.repeating(context.measured):
        enqueue(connection, kind, subject, again)
    body = {"begun": True, "seed": night.seed, "repeats": night.id, "without": source}
    note(connection, "night", again, body)


def _leave_out(connection: Connection, night_id: str, source: str) -> None:
    """Put the lessons that a night took up from a source back to undone."""
    where = {"night_id": night_id, "source": source, "state": "learnt"}
    apply(connection, Change(table="signals", where=where, values={"state": "undone"}))
