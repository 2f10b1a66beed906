"""Merges in the ledger: task vectors, the purpose of a merge, and how its verdict changes the pairs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from night import AT, BASE, a_lesson, a_pair, a_trained_night, active, decide, new_ledger, sha, states
from sqlalchemy import Connection

from corpus.errors import GateRefused, UnknownId, UsageError
from corpus.json_edge import to_json
from store import queries
from store.conversations import forget
from store.graph import merge as learn
from store.ledger import schema
from store.ledger.records import Checkpoint, save
from store.nights import history
from store.queue.outcome import Change, apply
from store.queue.work import counts, lease
from store.task_vectors import merges
from store.task_vectors.merges import MergePlan

WORK = [("measure", "before/0/listen"), ("merge", "update")]


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    ledger = new_ledger(tmp_path)
    with ledger.writing() as writing:
        yield writing
    ledger.close()


def a_night(connection: Connection, target: str, *names: str, replay: tuple[str, ...] = ()) -> str:
    """Run a kept night that taught this behaviour with these pairs; return its checkpoint."""
    pairs = [a_pair(name, "?") for name in names]
    update = a_trained_night(connection, *pairs, replay=replay)
    apply(connection, Change(table="nights", where={"id": update.night_id}, values={"targets": [target]}))
    apply(connection, Change(table="pairs", where={"id": list(names)}, values={"behaviour": target}))
    decide(connection, update, "keep")
    return str(update.checkpoint_id)


def two_apart(connection: Connection) -> tuple[str, str]:
    """Teach `listen` and `direct`, each from the base, and activate the base."""
    learn(connection, a_lesson(2))  # type: ignore[arg-type]
    first = a_night(connection, "listen", "p1", "p2")
    history.roll_back(connection, BASE, "apart")
    second = a_night(connection, "direct", "p3")
    history.roll_back(connection, BASE, "apart")
    return first, second


def planned(
    connection: Connection, *vectors: str, method: str = "arithmetic", density: float | None = None
) -> MergePlan:
    return merges.plan(connection, vectors, method, density)


def merged(connection: Connection, *vectors: str, decision: str = "keep") -> str:
    """Merge these vectors up to the verdict; return the id of the update."""
    of = planned(connection, *vectors)
    night_id = merges.begin(connection, plan=of, parent_id=active(connection), seed=1, work=WORK)
    update = queries.update_of(connection, night_id)
    assert update is not None
    number = int(night_id[1:])
    candidate = Checkpoint(
        id=sha(f"merge {number}"), parent_id=update.parent_id, number=number,
        weights_sha256=sha(f"m {number}"), update_id=update.id, state="candidate", at=AT,
    )  # fmt: skip
    save(connection, [candidate])
    apply(
        connection,
        Change(
            table="updates",
            where={"id": update.id},
            values={"state": "trained", "checkpoint_id": candidate.id},
        ),
    )
    row = queries.update_of(connection, night_id)
    assert row is not None
    history.carry_out(connection, update=row, decision=decision, reasons=[decision])
    history.close_night(connection, night_id=night_id)
    return str(update.id)


# ---------------------------------------------------------------- vectors


def test_a_checkpoint_names_the_vector_of_its_update_and_a_range_the_sum_of_its_updates(
    connection: Connection,
) -> None:
    first = a_night(connection, "listen", "p1")
    second = a_night(connection, "direct", "p2")
    single, span = (
        merges.task_vector(connection, second[:12]),
        merges.task_vector(connection, f"{BASE[:12]}..{second}"),
    )
    assert (single.start, single.end, single.updates) == (first, second, ("u2",))
    assert (span.start, span.end, span.updates) == (BASE, second, ("u1", "u2"))


@pytest.mark.parametrize("name", [BASE[:12], f"{BASE}..{BASE}"])
def test_the_base_has_no_task_vector(connection: Connection, name: str) -> None:
    with pytest.raises(UsageError):
        merges.task_vector(connection, name)


def test_a_range_goes_from_a_checkpoint_to_a_descendant(connection: Connection) -> None:
    first, second = two_apart(connection)
    for name in (f"{first}..{BASE}", f"{first}..{second}"):
        with pytest.raises(UsageError, match="not where the second grew from"):
            merges.task_vector(connection, name)
    with pytest.raises(UnknownId):
        merges.task_vector(connection, f"{first}..")


def test_a_vector_of_pruned_checkpoints_is_refused(connection: Connection) -> None:
    first = a_night(connection, "listen", "p1")
    second = a_night(connection, "direct", "p2")
    apply(connection, Change(table="checkpoints", where={"id": first}, values={"pruned": AT}))
    for name in (first, second, f"{first}..{second}"):
        with pytest.raises(GateRefused, match="was pruned"):
            merges.task_vector(connection, name)
    assert merges.task_vector(connection, f"{BASE}..{second}").updates == ("u1", "u2")


# ---------------------------------------------------------------- plans


def test_behaviours_of_positive_parts_are_to_rise_and_those_of_only_negative_parts_to_fall(
    connection: Connection,
) -> None:
    first, second = two_apart(connection)
    both = planned(connection, first, f"{second}=0.5")
    assert (both.improve, both.settings.unlearn) == (("direct", "listen"), ())
    assert both.pairs == {"p1": False, "p2": False, "p3": False}
    apart = planned(connection, f"{first}=-1", second)
    assert (apart.improve, apart.settings.unlearn) == (("direct",), ("listen",))
    assert apart.pairs == {"p1": True, "p2": True, "p3": False}
    contrary = planned(connection, first, f"{first}=-0.5")
    assert (contrary.improve, contrary.settings.unlearn, contrary.pairs) == (
        ("listen",),
        (),
        {"p1": False, "p2": False},
    )


def test_replay_is_not_counted_as_taught_by_an_update(connection: Connection) -> None:
    a_night(connection, "listen", "p1")
    second = a_night(connection, "direct", "p2", replay=("p1",))
    assert planned(connection, second).pairs == {"p2": False}


def test_subtracting_a_merge_teaches_what_the_merge_unlearnt(
    connection: Connection,
) -> None:
    first, second = two_apart(connection)
    merged(connection, first, second)
    merged(connection, f"{first}=-1")
    forgetting = active(connection)
    assert planned(connection, forgetting).settings.unlearn == ("listen",)
    again = planned(connection, f"{forgetting}=-1")
    assert (again.improve, again.settings.unlearn, again.pairs) == (
        ("listen",),
        (),
        {"p1": False, "p2": False},
    )
    whole = planned(connection, f"{BASE}..{forgetting}")  # taught and unlearnt again: the last one counts
    assert (whole.improve, whole.settings.unlearn) == (("direct",), ("listen",))
    assert whole.pairs == {"p1": True, "p2": True, "p3": False}


def test_the_settings_of_a_merge_record_how_its_weights_were_made(connection: Connection) -> None:
    first, second = two_apart(connection)
    settings = to_json(planned(connection, f"{first[:12]}=2", f"{second}=-0.5", method="ties").settings)
    assert settings == {
        "method": "ties",
        "density": 0.2,
        "parts": [
            {"start": BASE, "end": first, "updates": ["u1"], "weight": 2.0},
            {"start": BASE, "end": second, "updates": ["u2"], "weight": -0.5},
        ],
        "unlearn": ["direct"],
    }
    assert planned(connection, first).settings.density is None


@pytest.mark.parametrize(
    "vectors, method, density, message",
    [
        (["{}=0"], "arithmetic", None, "a weight is a number other than 0"),
        (["{}="], "arithmetic", None, "a weight is a number other than 0"),
        (["{}=much"], "arithmetic", None, "a weight is a number other than 0"),
        (["{}=nan"], "arithmetic", None, "a weight is a number other than 0"),
        (["{}=inf"], "arithmetic", None, "a weight is a number other than 0"),
        ([], "arithmetic", None, "at least one vector"),
        (["{}"], "slerp", None, "there are arithmetic and ties"),
        (["{}"], "arithmetic", 0.2, "belongs to --method ties"),
        (["{}"], "ties", 0.0, "over 0 and up to 1"),
        (["{}"], "ties", 1.5, "over 0 and up to 1"),
        (["{}"], "ties", float("nan"), "over 0 and up to 1"),
    ],
)
def test_a_merge_that_cannot_be_planned_is_refused_with_the_cure(
    connection: Connection, vectors: list[str], method: str, density: float | None, message: str
) -> None:
    first = a_night(connection, "listen", "p1")
    with pytest.raises(UsageError, match=message):
        planned(connection, *(name.format(first[:12]) for name in vectors), method=method, density=density)


# ---------------------------------------------------------------- the night of a merge


def test_a_merge_is_a_night_without_new_turns_and_with_a_planned_update(connection: Connection) -> None:
    first, second = two_apart(connection)
    of = planned(connection, first, f"{second}=-1")
    heard = queries.last_night(connection)
    connection.execute(
        schema.turns.insert().values(
            conversation_id="c1",
            position=9,
            role="user",
            text="new",
            path="/logs/a.jsonl",
            line=9,
            chain="9",
            key="",
        )
    )
    waiting = counts(connection, "ready")
    night_id = merges.begin(connection, plan=of, parent_id=BASE, seed=5, work=WORK)
    night, update = queries.night(connection, night_id), queries.update_of(connection, night_id)
    assert update is not None and heard is not None
    assert (night.id, night.seed, night.targets, night.state) == ("n3", 5, ["listen"], "running")
    assert night.cursor == heard.cursor < queries.cursor(connection)
    assert (update.id, update.objective, update.state, update.parent_id) == (
        "u3",
        "merge",
        "planned",
        BASE,
    )
    assert update.settings == to_json(of.settings)
    members = [(row.id, row.replay, row.unlearnt) for row in queries.pairs_of(connection, "u3")]
    assert members == [("p1", False, False), ("p2", False, False), ("p3", False, True)]
    assert counts(connection, "ready") == {**waiting, "measure": 1, "merge": 1}


def test_an_interrupted_merge_continues_and_another_one_is_refused_meanwhile(
    connection: Connection,
) -> None:
    first, second = two_apart(connection)
    of = planned(connection, first)
    night_id = merges.begin(connection, plan=of, parent_id=BASE, seed=5, work=WORK)
    assert merges.begin(connection, plan=of, parent_id=BASE, seed=5, work=WORK) == night_id
    with pytest.raises(GateRefused, match="a night is running"):
        merges.begin(connection, plan=planned(connection, second), parent_id=BASE, seed=5, work=WORK)


def test_a_merge_is_refused_while_a_night_runs_and_when_the_active_checkpoint_has_changed(
    connection: Connection,
) -> None:
    first, second = two_apart(connection)
    of = planned(connection, second)
    history.roll_back(connection, first, "meanwhile")
    with pytest.raises(GateRefused, match="has become active meanwhile"):
        merges.begin(connection, plan=of, parent_id=BASE, seed=5, work=WORK)
    history.begin_night(connection, seed=1, retry=False)
    with pytest.raises(GateRefused, match="a night is running"):
        merges.begin(connection, plan=of, parent_id=first, seed=5, work=WORK)
    while (item := lease(connection, "test")) is not None:
        assert item.kind != "merge"


# ---------------------------------------------------------------- what becomes of the pairs


def test_a_kept_merge_has_learnt_the_pairs_of_its_parts(connection: Connection) -> None:
    first, second = two_apart(connection)
    assert set(states(connection, "pairs").values()) == {"undone"}
    merged(connection, first, second)
    assert states(connection, "updates") == {"u1": "undone", "u2": "undone", "u3": "kept"}
    assert set(states(connection, "pairs").values()) == {"used"} and states(connection, "signals") == {
        "s2": "learnt"
    }
    assert queries.learnt_behaviours(connection) == {"listen", "direct"}


def test_pairs_that_a_kept_merge_unlearnt_are_undone_not_replayed_and_no_longer_gated(
    connection: Connection,
) -> None:
    first, second = two_apart(connection)
    merged(connection, first, second)
    merged(connection, f"{first}=-1")
    assert states(connection, "pairs") == {"p1": "undone", "p2": "undone", "p3": "used"}
    assert states(connection, "signals") == {"s2": "undone"}
    assert [row.id for row in queries.pairs(connection, "used")] == ["p3"]
    assert queries.learnt_behaviours(connection) == {"direct"}


def test_unlearning_an_ancestor_update_undoes_its_pairs_though_it_stays_kept(
    connection: Connection,
) -> None:
    first = a_night(connection, "listen", "p1")
    a_night(connection, "direct", "p2")
    merged(connection, f"{first}=-1")
    assert states(connection, "updates") == {"u1": "kept", "u2": "kept", "u3": "kept"}
    assert states(connection, "pairs") == {"p1": "undone", "p2": "used"} and queries.learnt_behaviours(
        connection
    ) == {"direct"}


def test_a_merge_that_its_verdict_undoes_leaves_the_pairs_as_they_were(connection: Connection) -> None:
    first = a_night(connection, "listen", "p1")
    a_night(connection, "direct", "p2")
    merged(connection, f"{first}=-1", decision="roll back")
    assert states(connection, "pairs") == {"p1": "used", "p2": "used"} and active(connection) != BASE
    assert queries.learnt_behaviours(connection) == {"listen", "direct"}


def test_rolling_a_merge_back_and_forth_restores_what_each_side_had(connection: Connection) -> None:
    first = a_night(connection, "listen", "p1")
    second = a_night(connection, "direct", "p2")
    tables = ("updates", "pairs", "signals")
    before = [states(connection, table) for table in tables]
    merged(connection, f"{first}=-1")
    unlearnt, after = active(connection), [states(connection, table) for table in tables]
    a_night(connection, "ask", "p4")
    last = active(connection)
    assert history.roll_back(connection, second, "it was better") == ["u3", "u4"]
    assert [{**s, "u3": "x", "u4": "x", "p4": "x"} for s in before] == [
        {**states(connection, table), "u3": "x", "u4": "x", "p4": "x"} for table in tables
    ]
    assert states(connection, "pairs")["p4"] == "undone" and queries.learnt_behaviours(connection) == {
        "listen",
        "direct",
    }
    assert history.roll_back(connection, unlearnt, "no, it was not") == []
    assert states(connection, "pairs") == {**after[1], "p4": "undone"}
    assert queries.learnt_behaviours(connection) == {"direct"}
    history.roll_back(connection, last, "and on")
    assert states(connection, "pairs") == {"p1": "undone", "p2": "used", "p4": "used"}
    history.roll_back(connection, BASE, "all of it")
    assert (
        set(states(connection, "pairs").values()) == {"undone"}
        and queries.learnt_behaviours(connection) == set()
    )


def test_an_unlearnt_pair_can_be_learnt_again_and_counts_again(connection: Connection) -> None:
    first = a_night(connection, "listen", "p1")
    merged(connection, f"{first}=-1")
    apply(connection, Change(table="pairs", where={"id": "p1"}, values={"state": "new"}))  # as --retry does
    again = a_night(connection, "listen", "p1")
    assert states(connection, "pairs") == {"p1": "used"} and queries.learnt_behaviours(connection) == {
        "listen"
    }
    history.roll_back(connection, history.default_target(connection), "once more without")
    assert (
        again
        and states(connection, "pairs") == {"p1": "undone"}
        and queries.learnt_behaviours(connection) == set()
    )


def test_a_lesson_stays_learnt_while_one_of_its_pairs_is_learnt(connection: Connection) -> None:
    learn(connection, a_lesson(2))  # type: ignore[arg-type]
    first = a_night(connection, "listen", "p1", "p2")
    history.roll_back(connection, BASE, "once more")
    apply(connection, Change(table="pairs", where={"id": "p1"}, values={"state": "new"}))
    second = a_night(connection, "listen", "p1")
    history.roll_back(connection, BASE, "and apart")
    merged(connection, f"{first}=-1", second)
    assert states(connection, "pairs") == {"p1": "used", "p2": "undone"}
    assert states(connection, "signals") == {"s2": "learnt"}


def test_a_failed_merge_undoes_nothing_that_is_kept(connection: Connection) -> None:
    first = a_night(connection, "listen", "p1")
    of = planned(connection, f"{first}=-1")
    night_id = merges.begin(connection, plan=of, parent_id=first, seed=1, work=WORK)
    history.close_night(connection, night_id=night_id)
    assert states(connection, "updates") == {"u1": "kept", "u2": "undone"}
    assert states(connection, "pairs") == {"p1": "used"} and active(connection) == first


def test_a_merge_counts_as_an_update_of_the_day_and_is_never_dry_run(
    connection: Connection,
) -> None:
    from datetime import UTC, datetime

    first = a_night(connection, "listen", "p1")
    merged(connection, f"{first}=-1")
    assert queries.nights_since(connection, datetime(2000, 1, 1, tzinfo=UTC)) == 2
    trained = queries.last_trained(connection)
    assert trained is not None and trained.id == "u1"


def test_forget_names_the_merges_of_updates_that_learnt_from_it_even_by_replay(
    connection: Connection,
) -> None:
    learn(connection, a_lesson(2))  # type: ignore[arg-type]
    first = a_night(connection, "listen", "p1")
    apply(connection, Change(table="pairs", where={"id": "p1"}, values={"signal_id": "s2"}))
    second = a_night(connection, "direct", "p2", replay=("p1",))
    history.roll_back(connection, BASE, "apart")
    third = a_night(connection, "ask", "p3")
    history.roll_back(connection, BASE, "apart")
    merged(connection, second)
    merged(connection, f"{first}=-1", third)
    history.roll_back(connection, BASE, "apart")
    merged(connection, third)
    forgetting = forget.look(connection, "anna", "/no/log")
    assert [(update.id, update.pairs, update.built_on) for update in forgetting.updates] == [
        ("u1", 1, None), ("u2", 1, None), ("u4", 0, "u1"), ("u5", 1, None),
    ]  # fmt: skip
    forget.forget(connection, "anna", "/no/log")
    assert states(connection, "pairs") == {"p2": "undone", "p3": "used"}
    history.roll_back(connection, sha("merge 5"), "forward")
    assert states(connection, "pairs") == {"p2": "used", "p3": "used"}
