"""The flow of a night: which work follows which outcome, and that every night ends."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import select

from agents.model.answer_limit import AnswerLimit
from loop.config import Settings
from loop.night import flow
from loop.night.handlers import handlers
from store.ledger import schema
from store.ledger.db import Ledger, database_url
from store.queue import work
from store.queue.outcome import Outcome, commit
from store.queue.work import MAX_ATTEMPTS, Work

Decide = Callable[[Work], Outcome | None]
"""The outcome of a piece of work, or None for one that fails."""


def a_good_night(item: Work) -> Outcome | None:
    """Return the outcomes of a night in which all goes well and the second round brings the verdict."""
    if item.kind == "plan":
        return Outcome(decision="dream", names=("ask", "listen"))
    if item.kind == "propose":
        return Outcome(decision="update", names=("act", "ask"))
    if item.kind in ("train", "merge"):
        return Outcome(decision="trained", names=("act", "ask"))
    if item.kind == "rule":
        return Outcome(decision="inconclusive" if item.subject == "0" else "keep", names=("act", "ask"))
    return Outcome()


def walk(
    place: Path, decide: Decide, begin: Sequence[tuple[str, str]] = (("plan", "night"),)
) -> list[tuple[str, str]]:
    """Do a night's work through the real queue; return the work done, in order, and the quarantined work."""
    ledger, done = Ledger(database_url(place)), []
    with closing(ledger), ledger.writing() as connection:
        for kind, subject in begin:
            work.enqueue(connection, kind, subject, "n1")
        for _ in range(200):
            item = work.lease(connection, "test")
            if item is None:
                return done
            outcome = decide(item)
            if outcome is not None:
                commit(connection, item, outcome, flow.follow(item, outcome))
                done.append((item.kind, item.subject))
            elif work.fail(connection, item, "no"):
                for kind, subject in flow.follow_failure(item):
                    work.enqueue(connection, kind, subject, item.night_id)
    raise AssertionError("the night did not end")


def test_a_whole_night_does_its_work_in_order_and_each_piece_once(tmp_path: Path) -> None:
    assert walk(tmp_path, a_good_night) == [
        ("plan", "night"), ("listen", "turns"),
        ("dream", "ask"), ("attempt", "ask"), ("pair", "ask"),
        ("dream", "listen"), ("attempt", "listen"), ("pair", "listen"),
        ("listen", "attempts"), ("propose", "update"),
        ("measure", "before/0/act"), ("measure", "before/0/ask"), ("read", "before"),
        ("train", "update"),
        ("measure", "after/0/act"), ("measure", "after/0/ask"), ("read", "after"),
        ("locate", "update"), ("rule", "0"),
        ("measure", "before/1/act"), ("measure", "before/1/ask"),
        ("measure", "after/1/act"), ("measure", "after/1/ask"),
        ("rule", "1"),
        ("settle", "night"),
    ]  # fmt: skip


def test_a_merge_is_measured_before_and_after_and_gets_a_verdict_like_any_update(tmp_path: Path) -> None:
    assert walk(tmp_path, a_good_night, flow.merging(("act", "ask"))) == [
        ("measure", "before/0/act"), ("measure", "before/0/ask"), ("read", "before"),
        ("merge", "update"),
        ("measure", "after/0/act"), ("measure", "after/0/ask"), ("read", "after"),
        ("locate", "update"), ("rule", "0"),
        ("measure", "before/1/act"), ("measure", "before/1/ask"),
        ("measure", "after/1/act"), ("measure", "after/1/ask"),
        ("rule", "1"),
        ("settle", "night"),
    ]  # fmt: skip


@pytest.mark.parametrize("outcome", [None, Outcome(decision="refused")])
def test_a_merge_that_fails_or_is_refused_ends_its_night_at_once(
    tmp_path: Path, outcome: Outcome | None
) -> None:
    done = walk(
        tmp_path, lambda item: outcome if item.kind == "merge" else a_good_night(item), flow.merging(("act",))
    )
    assert done[-1] == ("settle", "night") and not {"rule", "measure"} & {kind for kind, _ in done[3:]}


@pytest.mark.parametrize(
    "kind, decision", [("plan", "nothing"), ("propose", "nothing"), ("train", "refused")]
)
def test_a_night_without_an_update_is_closed_at_once(tmp_path: Path, kind: str, decision: str) -> None:
    done = walk(
        tmp_path, lambda item: Outcome(decision=decision) if item.kind == kind else a_good_night(item)
    )
    assert [of for of, _ in done if of != "listen"][-2:] == [kind, "settle"]
    assert ("listen", "turns") in done  # conversations are read all the same


@pytest.mark.parametrize("decision", ["keep", "roll back"])
def test_only_finalize_follows_a_verdict(tmp_path: Path, decision: str) -> None:
    done = walk(
        tmp_path, lambda item: Outcome(decision=decision) if item.kind == "rule" else a_good_night(item)
    )
    assert done[-2:] == [("rule", "0"), ("settle", "night")]


@pytest.mark.parametrize("kind", [kind for kind in flow.DECIDING if kind != "merge"])
def test_a_night_whose_deciding_work_is_quarantined_is_closed(tmp_path: Path, kind: str) -> None:
    done = walk(tmp_path, lambda item: None if item.kind == kind else a_good_night(item))
    assert done[-1] == ("settle", "night")
    assert kind not in [of for of, _ in done]


@pytest.mark.parametrize("kind", sorted(set(flow.NIGHT_KINDS) - {"settle", "merge"}))
def test_whatever_fails_a_night_is_finalized_exactly_once(tmp_path: Path, kind: str) -> None:
    done = walk(tmp_path, lambda item: None if item.kind == kind else a_good_night(item))
    assert done[-1] == ("settle", "night") and Counter(done)["settle", "night"] == 1


def test_every_single_piece_of_work_may_fail_and_the_night_still_ends(tmp_path: Path) -> None:
    for number, failing in enumerate(walk(tmp_path, a_good_night)[:-1]):
        place = tmp_path / str(number)
        place.mkdir()
        done = walk(
            place, lambda item, bad=failing: None if (item.kind, item.subject) == bad else a_good_night(item)
        )  # type: ignore[misc]
        assert done[-1] == ("settle", "night") and failing not in done


def test_work_is_tried_three_times_and_then_quarantined_with_its_error(tmp_path: Path) -> None:
    tried: Counter[str] = Counter()

    def decide(item: Work) -> Outcome | None:
        tried[item.kind] += 1
        return None if item.kind == "dream" else a_good_night(item)

    walk(tmp_path, decide)
    assert tried["dream"] == 2 * MAX_ATTEMPTS
    ledger = Ledger(database_url(tmp_path))
    with ledger.reading() as connection:
        rows = (
            connection.execute(select(schema.work).where(schema.work.c.state == "set_aside")).mappings().all()
        )
    ledger.close()
    assert [(row["kind"], row["attempts"], row["error"]) for row in rows] == [("dream", 3, "no")] * 2


def test_extraction_by_day_queues_no_work_of_a_night() -> None:
    item = Work(id=1, kind="extract", subject="c1:4", night_id="", attempts=0)
    assert flow.follow(item, Outcome()) == flow.follow_failure(item) == []


def test_every_kind_that_decides_is_a_kind_of_the_night() -> None:
    assert set(flow.DECIDING) < set(flow.NIGHT_KINDS)


def test_every_kind_of_work_is_handled_by_the_class_that_the_flow_names(tmp_path: Path) -> None:
    context: Any = SimpleNamespace(
        ledger=None, behaviours={}, settings=Settings(), model=None, trainer=None,
        evaluator=SimpleNamespace(limit=AnswerLimit()), is_shipped=True,
        monitor=SimpleNamespace(directory=tmp_path), measured=(),
    )  # fmt: skip
    built = handlers(context)
    assert built.keys() == flow.KINDS.keys()
    for name, kind in flow.KINDS.items():
        method: Any = built[name]
        of = type(method.__self__)
        assert (f"{of.__module__}.{of.__qualname__}", method.__name__) == (kind.handler, kind.method)
