"""A handler's outcome is committed in one transaction or not at all."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from night import a_dream, a_lesson, a_pair, a_signal, new_ledger, states
from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError

from store import graph, queries
from store.ledger import schema
from store.ledger.db import Ledger
from store.ledger.records import Rate, save
from store.nights import history
from store.queue.outcome import Change, Outcome, apply, commit
from store.queue.work import Work, counts, enqueue, lease


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = new_ledger(tmp_path)
    with ledger.writing() as connection:
        history.begin_night(connection, seed=1, retry=False)
    yield ledger
    ledger.close()


def take(ledger: Ledger) -> Work:
    with ledger.writing() as connection:
        item = lease(connection, "test")
    assert item is not None
    return item


def rows(ledger: Ledger) -> dict[str, list[Any]]:
    """Return every row of the ledger, by table."""
    with ledger.reading() as connection:
        return {
            t.name: [tuple(r) for r in connection.execute(select(t))] for t in schema.metadata.sorted_tables
        }


def events(connection: Connection, kind: str) -> list[tuple[str, dict[str, Any]]]:
    e = schema.events
    return [(s, b) for s, b in connection.execute(select(e.c.subject, e.c.body).where(e.c.kind == kind))]


def full_outcome(then: Callable[[Connection], None] | None = None) -> Outcome:
    """Return an outcome with something of every kind."""
    return Outcome(
        decision="dream",
        records=(*a_lesson(2), a_dream("d1", "n1"), a_pair("p1", "n1")),
        changes=(Change(table="nights", where={"id": "n1"}, values={"targets": ["listen"]}),),
        then=then,
        facts={"dreams": 1},
    )


def test_results_follow_up_work_state_and_event_are_committed_together(ledger: Ledger) -> None:
    item = take(ledger)
    with ledger.writing() as connection:
        commit(connection, item, full_outcome(), [("dream", "listen"), ("settle", "night")])
    with ledger.reading() as connection:
        assert counts(connection, "done") == {"plan": 1}
        assert counts(connection, "ready") == {"dream": 1, "settle": 1}
        assert states(connection, "pairs") == {"p1": "new"} and queries.dreamt_texts(connection) == ["d1"]
        assert [signal.id for signal, _ in graph.new_lessons(connection, 99)] == ["s2"]
        assert queries.night(connection, "n1").targets == ["listen"]
        assert events(connection, "plan") == [("n1", {"subject": "night", "decision": "dream", "dreams": 1})]


def test_an_outcome_whose_last_part_fails_leaves_nothing_behind(ledger: Ledger) -> None:
    item, before = take(ledger), None

    def then(connection: Connection) -> None:
        connection.execute(schema.nights.update().values(state="done"))
        raise RuntimeError("the pointer could not be moved")

    before = rows(ledger)
    with pytest.raises(RuntimeError, match="could not be moved"), ledger.writing() as connection:
        commit(connection, item, full_outcome(then), [("dream", "listen")])
    assert rows(ledger) == before
    with ledger.writing() as connection:
        commit(connection, item, full_outcome(), [("dream", "listen")])  # and it can be done after all
    assert rows(ledger) != before


@pytest.mark.parametrize("part", ["records", "changes", "follow-up"])
def test_a_part_that_the_database_refuses_leaves_nothing_behind(ledger: Ledger, part: str) -> None:
    item, before = take(ledger), rows(ledger)
    before = rows(ledger)
    outcome, follow_up = full_outcome(), [("dream", "listen")]
    if part == "records":
        outcome = Outcome(records=(*a_lesson(2), a_pair("p1", "no such night")))
    elif part == "changes":
        outcome = Outcome(
            records=(a_dream("d1", "n1"),), changes=(Change(table="nights", where={}, values={"id": None}),)
        )
    else:
        follow_up = [("dream", "listen"), ("dream", None)]  # type: ignore[list-item]
    with pytest.raises(IntegrityError), ledger.writing() as connection:
        commit(connection, item, outcome, follow_up)
    assert rows(ledger) == before


def test_an_outcome_committed_twice_counts_once(ledger: Ledger) -> None:
    """A service that dies between its commit and its own note of it repeats the work."""
    item = take(ledger)
    for _ in range(2):
        with ledger.writing() as connection:
            commit(connection, item, full_outcome(), [("dream", "listen")])
    tables = rows(ledger)
    assert [len(tables[name]) for name in ("signals", "dreams", "pairs", "edges")] == [1, 1, 1, 1]
    with ledger.reading() as connection:
        assert counts(connection, "ready") == {"dream": 1}


def test_a_change_affects_only_the_rows_that_it_names(ledger: Ledger) -> None:
    with ledger.writing() as connection:
        save(connection, [a_signal(1), a_signal(2), a_signal(3, state="refused"), a_signal(4, night_id="n1")])
        apply(
            connection,
            Change(table="signals", where={"id": ["s1", "s3"], "state": "new"}, values={"state": "learnt"}),
        )
        assert states(connection, "signals") == {"s1": "learnt", "s2": "new", "s3": "refused", "s4": "new"}
        apply(connection, Change(table="signals", where={"id": []}, values={"state": "undone"}))
        apply(
            connection,
            Change(table="signals", where={"night_id": None, "id": ["s2", "s4"]}, values={"state": "noted"}),
        )
        assert states(connection, "signals") == {"s1": "learnt", "s2": "noted", "s3": "refused", "s4": "new"}


def test_a_change_sees_the_records_of_its_own_outcome(ledger: Ledger) -> None:
    rate = Rate(behaviour="listen", failed=0.0, passed=0.0, temperature=1.0)
    warmer = Change(table="failure_rates", where={"behaviour": "listen"}, values={"temperature": 1.1})
    item = take(ledger)
    with ledger.writing() as connection:
        commit(connection, item, Outcome(records=(rate,), changes=(warmer,)), [])
        assert queries.rates(connection)["listen"].temperature == 1.1


def test_work_outside_a_night_is_recorded_under_its_subject(ledger: Ledger) -> None:
    take(ledger)
    with ledger.writing() as connection:
        enqueue(connection, "extract", "c1:4")
    item = take(ledger)
    with ledger.writing() as connection:
        commit(connection, item, Outcome(), [])
        assert events(connection, "extract") == [("c1:4", {"subject": "c1:4", "decision": "done"})]
