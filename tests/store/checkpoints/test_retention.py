"""The checkpoints that a policy keeps, computed from rows made up for each case."""

from datetime import UTC, timedelta, timezone

import pytest

from corpus.errors import UsageError
from store.checkpoints.retention import Policy, reasons
from store.ledger.records import Checkpoint

Rows = list[Checkpoint]


def rows(*states: str) -> Rows:
    """Make one row for each "state day hour": kept, undone or candidate; `+` pins it, `-` prunes it."""
    rows: Rows = []
    for number, text in enumerate(states):
        state, day, hour = text.split()
        at = f"2026-03-{day}T{hour}:00:00.000+00:00"
        rows.append(
            Checkpoint(
                id=f"c{number}",
                parent_id=None,
                number=number,
                weights_sha256="",
                update_id=None,
                state=state.rstrip("+-"),
                at=at,
                pinned=state.endswith("+"),
                pruned=at if state.endswith("-") else None,
            )
        )
    return rows


def stay(
    history: Rows, *, active: str, good: str | None = None, zone: timezone = UTC, **policy: int
) -> dict[str, str]:
    """Return the checkpoints that stay, with their reasons as one text."""
    why = reasons(history, Policy(**policy), active=active, good=good or active, zone=zone)
    return {name: ", ".join(of_it) for name, of_it in why.items() if of_it}


def test_only_the_last_kept_ones_stay() -> None:
    history = rows("kept 01 10", "kept 02 10", "kept 03 10", "kept 04 10")
    assert stay(history, active="c3", keep_last=2) == {"c2": "last", "c3": "active, last good one, last"}


def test_the_last_of_each_day_stays_for_as_many_days_as_the_policy_says() -> None:
    history = rows("kept 01 10", "kept 01 20", "kept 05 08", "kept 05 09", "kept 09 10")
    assert stay(history, active="c4", keep_daily=2) == {"c3": "daily", "c4": "active, last good one, daily"}
    assert set(stay(history, active="c4", keep_daily=9)) == {"c1", "c3", "c4"}


def test_days_are_counted_in_the_users_time_zone() -> None:
    history = rows("kept 01 22", "kept 02 01", "kept 02 23")
    assert set(stay(history, active="c2", keep_daily=9)) == {"c0", "c2"}
    two_east = timezone(timedelta(hours=2))  # there it is the 2nd, the 2nd and the 3rd
    assert set(stay(history, active="c2", keep_daily=9, zone=two_east)) == {"c1", "c2"}


def test_both_rules_together_keep_what_either_keeps() -> None:
    history = rows("kept 01 10", "kept 02 10", "kept 03 08", "kept 03 09", "kept 03 10")
    assert set(stay(history, active="c4", keep_last=2, keep_daily=2)) == {"c1", "c3", "c4"}


def test_the_active_checkpoint_stays_whatever_its_age() -> None:
    history = rows("kept 01 10", "kept 02 10", "kept 03 10")
    assert stay(history, active="c0", good="c2", keep_last=1) == {"c0": "active", "c2": "last good one, last"}


def test_a_pinned_checkpoint_stays_and_an_undone_one_does_not() -> None:
    history = rows("undone+ 01 10", "undone 02 10", "kept 03 10")
    assert set(stay(history, active="c2", keep_last=9, keep_daily=9)) == {"c0", "c2"}


def test_undone_checkpoints_count_for_no_rule() -> None:
    history = rows("kept 01 10", "kept 02 10", "undone 02 11", "undone 03 10")
    assert set(stay(history, active="c1", keep_last=2)) == {"c0", "c1"}
    assert set(stay(history, active="c1", keep_daily=2)) == {"c0", "c1"}


def test_a_candidate_is_never_pruned() -> None:
    history = rows("kept 01 10", "kept 02 10", "candidate 02 11")
    assert stay(history, active="c1", keep_last=1)["c2"] == "waits for its verdict"


def test_when_the_newest_kept_checkpoint_is_damaged_the_last_good_one_stays_too() -> None:
    history = rows("kept 01 10", "kept 02 10", "kept 03 10")
    why = stay(history, active="c2", good="c1", keep_last=1)
    assert why == {"c1": "last good one", "c2": "active, last good one, last"}


def test_pruned_checkpoints_are_left_out_and_count_for_no_rule() -> None:
    history = rows("kept 01 10", "kept- 02 10", "kept 03 10")
    assert reasons(history, Policy(keep_last=2), active="c2", good="c2", zone=UTC).keys() == {"c0", "c2"}
    assert set(stay(history, active="c2", keep_last=2)) == {"c0", "c2"}


@pytest.mark.parametrize("policy", [{}, {"keep_last": 0}, {"keep_last": 0, "keep_daily": 0}])
def test_an_empty_policy_is_refused(policy: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="an empty policy would keep nothing"):
        Policy(**policy)


@pytest.mark.parametrize("value", [-1, True, 1.5, "3"])
def test_a_policy_takes_whole_numbers_only(value: object) -> None:
    with pytest.raises(UsageError, match="--keep-daily is a whole number"):
        Policy(keep_last=1, keep_daily=value)  # type: ignore[arg-type]
