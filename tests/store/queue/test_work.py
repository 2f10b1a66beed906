"""The durable queue: work is leased in order, done once, and never lost."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from store.ledger import schema
from store.ledger.db import Ledger, database_url
from store.queue.work import MAX_ATTEMPTS, Work, counts, enqueue, fail, finish, lease, release, release_all


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(database_url(tmp_path))
    yield ledger
    ledger.close()


def take(ledger: Ledger) -> Work | None:
    with ledger.writing() as connection:
        return lease(connection, "me")


def put(ledger: Ledger, *kinds: str) -> None:
    with ledger.writing() as connection:
        for kind in kinds:
            enqueue(connection, kind, "x")


def row(ledger: Ledger, kind: str) -> dict[str, object]:
    with ledger.reading() as connection:
        return dict(
            connection.execute(select(schema.work).where(schema.work.c.kind == kind)).mappings().one()
        )


def test_work_is_leased_in_the_order_in_which_it_was_queued(ledger: Ledger) -> None:
    put(ledger, "c", "a", "b")
    assert [item.kind for item in iter(lambda: take(ledger), None)] == ["c", "a", "b"]


def test_leased_work_is_not_leased_again_until_it_is_released(ledger: Ledger) -> None:
    put(ledger, "a")
    item = take(ledger)
    assert item is not None and take(ledger) is None
    with ledger.writing() as connection:
        release(connection, item)
    assert take(ledger) == item  # no attempt was counted


def test_the_same_work_is_queued_once_for_each_night(ledger: Ledger) -> None:
    with ledger.writing() as connection:
        for night in ("n1", "n1", "n2"):
            enqueue(connection, "dream", "listen", night)
        assert counts(connection, "ready") == {"dream": 2}


def test_finished_work_is_not_queued_again(ledger: Ledger) -> None:
    put(ledger, "a")
    item = take(ledger)
    assert item is not None
    with ledger.writing() as connection:
        finish(connection, item)
    put(ledger, "a")
    assert take(ledger) is None and row(ledger, "a")["state"] == "done"


def test_work_is_retried_and_quarantined_with_its_error_at_the_third_failure(ledger: Ledger) -> None:
    put(ledger, "bad", "good")
    for attempt in range(1, MAX_ATTEMPTS + 1):
        item = take(ledger)
        assert item is not None and (item.kind, item.attempts) == ("bad", attempt - 1)
        with ledger.writing() as connection:
            assert fail(connection, item, f"error {attempt}") == (attempt == MAX_ATTEMPTS == 3)
        assert row(ledger, "bad")["error"] == f"error {attempt}" and row(ledger, "bad")["holder"] is None
    following = take(ledger)
    assert following is not None and following.kind == "good"  # it never blocks the rest
    assert row(ledger, "bad")["state"] == "set_aside"


def test_an_error_is_cleared_when_the_work_succeeds(ledger: Ledger) -> None:
    put(ledger, "a")
    item = take(ledger)
    assert item is not None
    with ledger.writing() as connection:
        fail(connection, item, "once")
    item = take(ledger)
    assert item is not None and item.attempts == 1
    with ledger.writing() as connection:
        finish(connection, item)
    assert (row(ledger, "a")["state"], row(ledger, "a")["error"]) == ("done", None)


def test_the_leases_of_a_dead_service_are_released_and_nothing_else_changes(ledger: Ledger) -> None:
    put(ledger, "leased", "failed", "done", "ready")
    taken = {item.kind: item for _ in range(3) if (item := take(ledger))}
    with ledger.writing() as connection:
        finish(connection, taken["done"])
        for _ in range(MAX_ATTEMPTS):
            fail(connection, Work(**{**vars(taken["failed"]), "attempts": 2}), "no")
        assert release_all(connection) == 1
        assert [counts(connection, state) for state in ("ready", "leased", "done", "set_aside")] == [
            {"leased": 1, "ready": 1}, {}, {"done": 1}, {"failed": 1},
        ]  # fmt: skip
    assert row(ledger, "leased")["attempts"] == 0


def test_the_queue_survives_the_process_that_filled_it(tmp_path: Path) -> None:
    first = Ledger(database_url(tmp_path))
    put(first, "a")
    first.close()
    second = Ledger(database_url(tmp_path))
    item = take(second)
    second.close()
    assert item is not None and item.kind == "a"
