"""The ledger's view of one checkpoint, and of the difference between two."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from night import BASE, a_pair, a_trained_night, decide, new_ledger, sha
from sqlalchemy import Connection

from corpus.errors import GateRefused, UnknownId
from store import queries
from store.ledger.records import Measurement, Reading, save
from store.nights import history, lineage
from store.nights.comparisons import ComparedBehaviour
from store.nights.results import BeforeAfter, MeasuredBehaviour, PairCount, PassCount, UpdatePairs
from store.queue.outcome import Change, apply


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    ledger = new_ledger(tmp_path)
    with ledger.writing() as writing:
        yield writing
    ledger.close()


def a_night(
    connection: Connection, number: int, *, replay: tuple[str, ...] = (), decision: str = "keep"
) -> str:
    """Run a night with a pair of each of two behaviours; return its checkpoint."""
    pairs = [a_pair(f"p{number}", "?"), a_pair(f"q{number}", "?", behaviour="ask")]
    update = a_trained_night(connection, *pairs, replay=replay)
    # `a_pair` of night "?" is made anew by the night, as `listen`: the second is put right here
    apply(connection, Change(table="pairs", where={"id": [f"q{number}"]}, values={"behaviour": "ask"}))
    decide(connection, update, decision)
    assert update.checkpoint_id is not None
    return update.checkpoint_id


def measured(
    connection: Connection, weights: str, outcomes: str, seed: int = 0, round_: int = 0, of: str = "now"
) -> None:
    row = Measurement(
        weights_sha256=weights, behaviour="listen", definition=of, seed=seed, round=round_, outcomes=outcomes
    )
    save(connection, [row])


def rates(connection: Connection, *wanted: str) -> list[ComparedBehaviour]:
    return lineage.between(connection, wanted or ("base", "active"), {"listen": "now"}).behaviours


# ---------------------------------------------------------------- pass rates


def test_pass_rates_are_compared_on_the_common_scenarios(connection: Connection) -> None:
    a_night(connection, 1)
    for weights, outcomes in ((sha("base weights"), "0011"), (sha("weights 1"), "0110")):
        measured(connection, weights, outcomes)
        measured(connection, weights, outcomes[:2], round_=1)
    measured(connection, sha("weights 1"), "11111111", seed=9)  # the base was not asked these
    (row,) = rates(connection)
    assert row == ComparedBehaviour(
        name="listen",
        current=True,
        same_scenarios=True,
        before=PassCount(passed=2, trials=6),
        after=PassCount(passed=3, trials=6),
        gained=2,
        lost=1,
    )


def test_a_longer_round_of_one_side_counts_only_for_the_common_scenarios(connection: Connection) -> None:
    a_night(connection, 1)
    measured(connection, sha("base weights"), "01")
    measured(connection, sha("weights 1"), "1111")
    (row,) = rates(connection)
    assert (row.before, row.after) == (PassCount(passed=1, trials=2), PassCount(passed=2, trials=2))


def test_without_a_common_scenario_no_change_is_counted_and_the_diff_says_so(connection: Connection) -> None:
    a_night(connection, 1)
    measured(connection, sha("base weights"), "01", seed=1)
    measured(connection, sha("weights 1"), "1110", seed=2)
    (row,) = rates(connection)
    assert (row.same_scenarios, row.gained, row.lost) == (False, None, None)
    assert (row.before, row.after) == (PassCount(passed=1, trials=2), PassCount(passed=3, trials=4))


def test_two_definitions_of_a_behaviour_are_never_compared_with_each_other(connection: Connection) -> None:
    a_night(connection, 1)
    measured(connection, sha("base weights"), "00", of="then")
    measured(connection, sha("weights 1"), "11", of="now")
    assert rates(connection) == []
    measured(connection, sha("weights 1"), "01", of="then")
    (row,) = rates(connection)
    assert (row.current, row.after) == (False, PassCount(passed=1, trials=2))


# ---------------------------------------------------------------- readings


def test_a_reading_moves_in_standard_deviations_of_the_earlier_checkpoint(connection: Connection) -> None:
    a_night(connection, 1)
    for weights, calm, proud, perplexity in (
        (sha("base weights"), 0.5, 0.1, 1.2),
        (sha("weights 1"), 0.4, 0.5, 1.5),
    ):
        for name, mean in (("calm", calm), ("proud", proud), ("perplexity", perplexity)):
            save(connection, [Reading(weights_sha256=weights, name=name, vectors="v", mean=mean, spread=0.2)])
    diff = lineage.between(connection, ("base", "active"), {})
    moves = [(row.name, round(row.move, 6)) for row in diff.readings]
    assert moves == [("proud", 2.0), ("calm", -0.5)]
    assert diff.perplexity == BeforeAfter(before=1.2, after=1.5)


# ---------------------------------------------------------------- the way


def test_a_diff_forward_lists_the_updates_and_their_pairs_with_replay_apart(connection: Connection) -> None:
    first = a_night(connection, 1)
    second = a_night(connection, 2, replay=("p1",))
    diff = lineage.between(connection, ("base", second), {})
    assert diff.common == BASE and diff.removed == []
    assert [(step.update, step.checkpoint) for step in diff.added] == [("u1", first), ("u2", second)]
    assert diff.added[1].pairs == UpdatePairs(
        new=["p2", "q2"],
        replay=["p1"],
        behaviours=[PairCount(name="ask", new=1, replay=0), PairCount(name="listen", new=1, replay=1)],
    )
    back = lineage.between(connection, (second, BASE), {})
    assert back.added == [] and [step.update for step in back.removed] == ["u1", "u2"]


def test_a_diff_of_two_branches_goes_through_their_common_ancestor(connection: Connection) -> None:
    trunk = a_night(connection, 1)
    left = a_night(connection, 2)
    history.roll_back(connection, trunk, "by hand")
    right = a_night(connection, 3)
    diff = lineage.between(connection, (left, right), {})
    assert diff.common == trunk
    assert [step.update for step in diff.removed] == ["u2"]
    assert [step.update for step in diff.added] == ["u3"]
    assert lineage.between(connection, (left, left), {}).added == []


# ---------------------------------------------------------------- one checkpoint


def test_a_checkpoint_has_its_parent_children_update_and_verdict(connection: Connection) -> None:
    first = a_night(connection, 1)
    second = a_night(connection, 2, decision="roll back")
    measured(connection, sha("weights 1"), "0111", seed=1)
    measured(connection, sha("weights 1"), "11", seed=1, round_=1)
    details = lineage.one(connection, first[:8], {"listen": "now"})
    assert (details.id, details.parent_id, details.children, details.active) == (first, BASE, [second], True)
    assert details.update is not None
    assert details.update.id == "u1" and details.update.pairs.new == ["p1", "q1"]
    assert details.behaviours == [MeasuredBehaviour(name="listen", current=True, passed=5, trials=6)]
    assert lineage.one(connection, "base", {}).update is None


# ---------------------------------------------------------------- names, pins, prunes


def test_active_and_base_are_names_and_anything_else_is_the_prefix_of_an_id(
    connection: Connection,
) -> None:
    first = a_night(connection, 1)
    assert queries.checkpoint(connection, "active").id == first
    assert queries.checkpoint(connection, "base").id == BASE
    assert queries.checkpoint(connection, first[:5]).id == first
    for none in ("1", "#1", "Active", "bas", "%"):
        if not first.startswith(none) and not BASE.startswith(none):
            with pytest.raises(UnknownId, match="no checkpoint begins with"):
                queries.checkpoint(connection, none)


def test_a_pin_is_set_and_recorded_once(connection: Connection) -> None:
    assert history.set_pinned(connection, "base", True).pinned is False
    assert history.set_pinned(connection, "base", True).pinned is True
    assert history.set_pinned(connection, "base", False).pinned is True
    assert queries.checkpoint(connection, "base").pinned is False
    assert [kind for kind, _ in noted(connection)][-2:] == ["pinned", "unpinned"]


def noted(connection: Connection) -> list[tuple[str, str]]:
    """Return kind and subject of every event, oldest first."""
    from sqlalchemy import select

    from store.ledger.schema import events

    rows = connection.execute(select(events.c.kind, events.c.subject).order_by(events.c.seq))
    return [(kind, subject) for kind, subject in rows]


def test_a_pruned_checkpoint_keeps_its_row_and_is_refused_with_the_nearest_named(
    connection: Connection,
) -> None:
    first, second, third = (a_night(connection, number) for number in (1, 2, 3))
    history.set_pruned(connection, [first], {"keep_last": 2})
    assert noted(connection)[-1] == ("pruned", first)
    assert queries.stored(connection) == [BASE, second, third]
    assert [row.id for row in queries.kept(connection)] == [BASE, second, third]
    with pytest.raises(GateRefused, match=f"was pruned at .* the nearest that is there is {BASE[:12]}"):
        history.roll_back(connection, first, "by hand")
    with pytest.raises(GateRefused, match="was pruned"):
        history.set_pinned(connection, first, True)
    assert queries.active(connection).id == third
    assert history.roll_back(connection, second, "by hand") == ["u3"]  # over what is there, past what is not
    assert history.roll_back(connection, BASE, "by hand") == ["u1", "u2"]
