"""Nights, verdicts and rollbacks: the active checkpoint, and what is kept or undone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from night import BASE, a_lesson, a_pair, a_trained_night, active, decide, new_ledger, sha, states
from sqlalchemy import Connection, func, select

from corpus.errors import GateRefused, UnknownId
from store import graph, queries
from store.graph import merge
from store.ledger import schema
from store.nights import history
from store.queue.outcome import Change, Outcome, apply, commit
from store.queue.work import MAX_ATTEMPTS, counts, fail, finish, lease, release


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    ledger = new_ledger(tmp_path)
    with ledger.writing() as writing:
        yield writing
    ledger.close()


def new_pairs(connection: Connection) -> list[str]:
    return [row.id for row in queries.pairs(connection, "new")]


def pointers(connection: Connection) -> list[str]:
    rows = connection.execute(select(schema.pointers.c.checkpoint_id).order_by(schema.pointers.c.seq))
    return list(rows.scalars())


def a_kept_night(connection: Connection, *names: str, replay: tuple[str, ...] = ()) -> str:
    """A night that ends with a kept update of these new pairs; returns its checkpoint."""
    update = a_trained_night(connection, *(a_pair(name, "?") for name in names), replay=replay)
    decide(connection, update, "keep")
    assert update.checkpoint_id is not None
    return update.checkpoint_id


# ---------------------------------------------------------------- nights


def test_the_base_is_recorded_once(connection: Connection) -> None:
    history.add_base(connection, sha("another"), sha("other weights"))
    assert active(connection) == BASE and pointers(connection) == [BASE]


def test_a_night_begins_at_the_newest_turn_with_one_piece_of_work(connection: Connection) -> None:
    night = queries.night(connection, history.begin_night(connection, seed=5, retry=False))
    assert (night.id, night.number, night.seed, night.state) == ("n1", 1, 5, "running")
    assert night.cursor == queries.cursor(connection) == 6
    assert counts(connection, "ready") == {"plan": 1}


def test_a_running_night_continues_and_no_second_one_begins(connection: Connection) -> None:
    assert history.begin_night(connection, seed=5, retry=False) == "n1"
    assert history.begin_night(connection, seed=6, retry=True) == "n1"
    assert queries.night(connection, "n1").seed == 5 and counts(connection, "ready") == {"plan": 1}
    history.close_night(connection, night_id="n1")
    assert history.begin_night(connection, seed=6, retry=False) == "n2"


def test_an_unknown_night_is_refused(connection: Connection) -> None:
    with pytest.raises(UnknownId, match="there is no night n7"):
        queries.night(connection, "n7")


# ---------------------------------------------------------------- verdicts


def test_a_kept_update_moves_the_pointer_and_uses_up_its_pairs_and_signals(connection: Connection) -> None:
    merge(connection, a_lesson(2))  # type: ignore[arg-type]
    checkpoint_id = a_kept_night(connection, "p1", "p2")
    assert active(connection) == checkpoint_id and pointers(connection) == [BASE, checkpoint_id]
    assert states(connection, "checkpoints")[checkpoint_id] == "kept"
    assert states(connection, "updates") == {"u1": "kept"}
    assert states(connection, "pairs") == {"p1": "used", "p2": "used"}
    assert states(connection, "signals") == {"s2": "learnt"}
    assert graph.new_lessons(connection, 99) == [] and queries.night(connection, "n1").reasons == ["keep"]


def test_an_update_that_its_verdict_undoes_leaves_the_pointer_and_marks_its_pairs_undone(
    connection: Connection,
) -> None:
    merge(connection, a_lesson(2))  # type: ignore[arg-type]
    decide(connection, a_trained_night(connection, a_pair("p1", "?")), "roll back", ["act fell"])
    assert active(connection) == BASE and pointers(connection) == [BASE]
    assert states(connection, "updates") == {"u1": "undone"} and states(connection, "pairs") == {
        "p1": "undone"
    }
    assert states(connection, "signals") == {"s2": "undone"} and graph.new_lessons(connection, 99) == []
    assert queries.night(connection, "n1").reasons == ["act fell"]


def test_a_night_without_a_verdict_undoes_its_update_when_it_closes(connection: Connection) -> None:
    update = a_trained_night(connection, a_pair("p1", "?"))
    history.close_night(connection, night_id="n1")
    assert states(connection, "updates") == {"u1": "undone"} and states(connection, "pairs") == {
        "p1": "undone"
    }
    assert (
        states(connection, "checkpoints")[str(update.checkpoint_id)] == "undone"
        and active(connection) == BASE
    )
    (reason,) = queries.night(connection, "n1").reasons
    assert "could not be finished" in reason


def test_a_pair_that_was_replayed_stays_used_when_the_update_is_undone(connection: Connection) -> None:
    a_kept_night(connection, "p1")
    decide(connection, a_trained_night(connection, a_pair("p2", "?"), replay=("p1",)), "roll back")
    assert states(connection, "pairs") == {"p1": "used", "p2": "undone"}


def test_an_ended_night_is_not_ended_again_by_the_next(connection: Connection) -> None:
    checkpoint_id = a_kept_night(connection, "p1")
    history.begin_night(connection, seed=1, retry=False)
    history.close_night(connection, night_id="n2")
    assert active(connection) == checkpoint_id and states(connection, "updates") == {"u1": "kept"}
    assert queries.night(connection, "n2").reasons == []


# ---------------------------------------------------------------- rollbacks


def test_a_rollback_adds_a_pointer_and_removes_nothing(connection: Connection) -> None:
    first, second = a_kept_night(connection, "p1"), a_kept_night(connection, "p2")
    assert history.default_target(connection) == first
    assert history.roll_back(connection, first, "by hand") == ["u2"]
    assert pointers(connection) == [BASE, first, second, first]
    assert states(connection, "updates") == {"u1": "kept", "u2": "undone"}
    assert states(connection, "pairs") == {"p1": "used", "p2": "undone"}
    assert set(states(connection, "checkpoints").values()) == {"kept"}


def test_a_rollback_over_two_nights_undoes_both_with_their_signals(connection: Connection) -> None:
    merge(connection, a_lesson(2))  # type: ignore[arg-type]
    a_kept_night(connection, "p1")
    merge(connection, a_lesson(4))  # type: ignore[arg-type]
    a_kept_night(connection, "p2")
    assert [row.id for row in history.undone_by(connection, BASE)] == ["u1", "u2"]
    assert history.roll_back(connection, BASE, "by hand") == ["u1", "u2"]
    assert set(states(connection, "pairs").values()) == {"undone"}
    assert states(connection, "signals") == {"s2": "undone", "s4": "undone"}


def test_a_rollback_over_an_update_and_a_replay_of_its_pairs_undoes_both(
    connection: Connection,
) -> None:
    merge(connection, a_lesson(2))  # type: ignore[arg-type]
    a_kept_night(connection, "p1")
    a_kept_night(connection, "p2", replay=("p1",))
    history.roll_back(connection, BASE, "by hand")
    assert states(connection, "pairs") == {"p1": "undone", "p2": "undone"}
    assert states(connection, "signals") == {"s2": "undone"}


def test_an_undone_update_can_be_rolled_forward_and_counts_again(connection: Connection) -> None:
    merge(connection, a_lesson(2))  # type: ignore[arg-type]
    first, second = a_kept_night(connection, "p1"), a_kept_night(connection, "p2")
    before = [states(connection, table) for table in ("updates", "pairs", "signals")]
    history.roll_back(connection, BASE, "by hand")
    assert history.roll_back(connection, second, "changed my mind") == []
    assert active(connection) == second and pointers(connection) == [BASE, first, second, BASE, second]
    assert [states(connection, table) for table in ("updates", "pairs", "signals")] == before


def test_rolling_forward_to_the_first_update_keeps_only_that_update(connection: Connection) -> None:
    first, _ = a_kept_night(connection, "p1"), a_kept_night(connection, "p2")
    history.roll_back(connection, BASE, "by hand")
    history.roll_back(connection, first, "not so far")
    assert states(connection, "updates") == {"u1": "kept", "u2": "undone"}
    assert states(connection, "pairs") == {"p1": "used", "p2": "undone"}


def test_a_night_after_a_rollback_starts_a_branch_and_either_branch_can_be_activated(
    connection: Connection,
) -> None:
    first = a_kept_night(connection, "p1")
    history.roll_back(connection, BASE, "by hand")
    second = a_kept_night(connection, "p2")
    assert history.ancestry(connection, second) == [second, BASE]
    assert history.roll_back(connection, first, "the other branch") == ["u2"]
    assert states(connection, "updates") == {"u1": "kept", "u2": "undone"}
    assert states(connection, "pairs") == {"p1": "used", "p2": "undone"}


def test_undone_pairs_and_signals_are_not_new_until_a_retry(connection: Connection) -> None:
    merge(connection, a_lesson(2))  # type: ignore[arg-type]
    a_kept_night(connection, "p1")
    history.roll_back(connection, BASE, "by hand")
    history.begin_night(connection, seed=1, retry=False)
    assert new_pairs(connection) == [] and graph.new_lessons(connection, 99) == []
    history.close_night(connection, night_id="n2")
    history.begin_night(connection, seed=1, retry=True)
    assert new_pairs(connection) == ["p1"] and states(connection, "signals") == {"s2": "new"}


def test_a_retry_learns_from_the_existing_pairs_and_not_again_from_the_lesson(
    connection: Connection,
) -> None:
    merge(connection, a_lesson(2))  # type: ignore[arg-type]
    a_kept_night(connection, "p1")
    history.roll_back(connection, BASE, "by hand")
    history.begin_night(connection, seed=1, retry=True)
    assert graph.new_lessons(connection, 99) == []
    (pair,) = queries.pairs(connection, "new")
    update = a_trained_night(connection, a_pair(pair.id, "n1"))
    assert update.night_id == "n2"
    decide(connection, update, "keep")
    assert states(connection, "updates") == {"u1": "undone", "u2": "kept"}
    assert states(connection, "pairs") == {"p1": "used"} and states(connection, "signals") == {"s2": "learnt"}
    history.roll_back(connection, sha("checkpoint 1"), "the first time was better")
    assert states(connection, "updates") == {"u1": "kept", "u2": "undone"}
    assert states(connection, "pairs") == {"p1": "used"} and states(connection, "signals") == {"s2": "learnt"}


def test_the_lessons_of_a_failed_night_are_new_for_the_next(connection: Connection) -> None:
    merge(connection, a_lesson(2))  # type: ignore[arg-type]
    night_id = history.begin_night(connection, seed=1, retry=False)
    taken = Change(table="signals", where={"id": "s2"}, values={"night_id": night_id})
    apply(connection, taken)
    for _ in range(MAX_ATTEMPTS):
        item = lease(connection, "test")
        assert item is not None
        fail(connection, item, "the model was away")
    history.close_night(connection, night_id=night_id)
    assert [signal.id for signal, _ in graph.new_lessons(connection, 99)] == ["s2"]
    history.begin_night(connection, seed=1, retry=False)
    apply(connection, Change(table="signals", where={"id": "s2"}, values={"night_id": "n2"}))
    history.close_night(connection, night_id="n2")  # nothing failed: it was taken up, and is not again
    assert graph.new_lessons(connection, 99) == []


def test_a_rollback_is_refused_while_a_night_runs(connection: Connection) -> None:
    a_kept_night(connection, "p1")
    history.begin_night(connection, seed=1, retry=False)
    with pytest.raises(GateRefused, match="a night is running") as refusal:
        history.roll_back(connection, BASE, "by hand")
    assert refusal.value.exit_code == 13


def test_a_rollback_now_ends_the_night_and_undoes_its_update_in_one_transaction(
    connection: Connection,
) -> None:
    merge(connection, a_lesson(2))  # type: ignore[arg-type]
    first = a_kept_night(connection, "p1")
    update = a_trained_night(connection, a_pair("p2", "?"))
    while (in_hand := lease(connection, "test")) is not None and in_hand.night_id != "n2":
        finish(connection, in_hand)
    history.roll_back_now(connection, BASE, "by hand", settles=True)
    assert active(connection) == BASE and pointers(connection)[-2:] == [first, BASE]
    assert states(connection, "updates") == {"u1": "undone", "u2": "undone"}
    assert states(connection, "checkpoints")[str(update.checkpoint_id)] == "undone"
    assert states(connection, "pairs") == {"p1": "undone", "p2": "undone"}
    # Work in progress has no effect, however it ends; only the end of the night is left to do.
    assert in_hand is not None and counts(connection, "ready") == {"settle": 1}
    commit(connection, in_hand, Outcome(records=(a_pair("p9", "n2"),)), [("propose", "update")])
    release(connection, in_hand)
    assert fail(connection, in_hand, "broken off") is False
    assert counts(connection, "ready") == {"settle": 1} and "p9" not in states(connection, "pairs")
    history.close_night(connection, night_id="n2")
    assert queries.night(connection, "n2").reasons == ["by hand"]


def test_a_rollback_now_may_only_end_the_night_and_leaves_its_lessons_for_the_next(
    connection: Connection,
) -> None:
    merge(connection, a_lesson(2))  # type: ignore[arg-type]
    with pytest.raises(UnknownId, match="is the active one already"):
        history.roll_back_now(connection, BASE, "by hand", settles=False)
    history.begin_night(connection, seed=1, retry=False)
    apply(connection, Change(table="signals", where={"id": "s2"}, values={"night_id": "n1"}))
    assert graph.new_lessons(connection, 99) == []
    history.roll_back_now(connection, BASE, "by hand", settles=False)  # nobody is there to settle
    night = queries.night(connection, "n1")
    assert (night.state, night.reasons, pointers(connection)) == ("done", ["by hand"], [BASE])
    assert counts(connection, "ready") == {} and counts(connection, "withdrawn") == {"plan": 1}
    assert [signal.id for signal, _ in graph.new_lessons(connection, 99)] == ["s2"]


def test_a_rollback_to_an_unkept_the_active_or_an_unknown_checkpoint_is_refused(
    connection: Connection,
) -> None:
    with pytest.raises(GateRefused, match="there is nothing before it"):
        history.default_target(connection)
    with pytest.raises(UnknownId, match="is the active one already"):
        history.roll_back(connection, BASE, "by hand")
    update = a_trained_night(connection, a_pair("p1", "?"))
    decide(connection, update, "roll back")
    with pytest.raises(GateRefused, match="was not kept by its verdict"):
        history.roll_back(connection, str(update.checkpoint_id), "by hand")
    with pytest.raises(UnknownId, match="no checkpoint begins with 'f00'"):
        history.roll_back(connection, "f00", "by hand")
    assert pointers(connection) == [BASE]


def test_the_nearest_checkpoint_is_an_ancestor_or_else_a_descendant(
    connection: Connection,
) -> None:
    first, second, third = (a_kept_night(connection, name) for name in ("p1", "p2", "p3"))
    history.roll_back(connection, BASE, "by hand")
    aside = a_kept_night(connection, "p4")
    refused = a_trained_night(connection, a_pair("p5", "?"))
    decide(connection, refused, "roll back")
    assert history.nearest(connection, second) == [first, BASE, third, aside]
    assert history.nearest(connection, third) == [second, first, BASE, aside]
    assert history.nearest(connection, BASE) == [first, aside, second, third]
    apply(connection, Change(table="checkpoints", where={"id": first}, values={"pruned": "2026-01-01"}))
    assert history.nearest(connection, second) == [BASE, third, aside]


def test_a_checkpoint_may_be_named_by_an_unambiguous_prefix(connection: Connection) -> None:
    checkpoint_id = a_kept_night(connection, "p1")
    assert queries.checkpoint(connection, checkpoint_id[:12]).id == checkpoint_id
    for wanted in ("", "%", "_" * 64, "no such"):
        with pytest.raises(UnknownId):
            queries.checkpoint(connection, wanted)


def test_every_change_of_the_pointer_is_an_event(connection: Connection) -> None:
    checkpoint_id = a_kept_night(connection, "p1")
    history.roll_back(connection, BASE, "by hand")
    e = schema.events
    changes = connection.execute(
        select(e.c.subject, e.c.body).where(e.c.kind == "pointer").order_by(e.c.seq)
    ).all()
    assert [(subject, body["why"]) for subject, body in changes] == [
        (BASE, "base"), (checkpoint_id, "update u1 was kept"), (BASE, "by hand"),
    ]  # fmt: skip


def test_a_pause_lasts_until_it_is_ended(connection: Connection) -> None:
    assert not queries.is_paused(connection)
    for paused in (True, True, False, False, True):
        history.set_paused(connection, paused)
        assert queries.is_paused(connection) == paused
    rows = connection.execute(select(func.count()).where(schema.meta.c.key == "paused")).scalar()
    assert rows == 1
