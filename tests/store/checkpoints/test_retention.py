"""Which checkpoints a policy keeps: pure, on rows made up for it."""

from datetime import UTC, timedelta, timezone

import pytest

from corpus.errors import UsageError
from store.checkpoints.retention import Policy, reasons
from store.ledger.records import Checkpoint

Rows = list[Checkpoint]


def rows(*states: str) -> Rows:
    """Make one row for each "state day hour": kept, undone or candidate; `+` pins it, `-` prunes it."""
    made: Rows = []
    for number, text in enumerate(states):
        state, day, hour = text.split()
        at = f"2026-03-{day}T{hour}:00:00.000+00:00"
        made.append(
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
    return made


def stay(
    found: Rows, *, active: str, good: str | None = None, zone: timezone = UTC, **policy: int
) -> dict[str, str]:
    """What stays, with the reasons as one text."""
    why = reasons(found, Policy(**policy), active=active, good=good or active, zone=zone)
    return {name: ", ".join(of_it) for name, of_it in why.items() if of_it}


def test_the_last_ones_that_were_kept_stay_and_no_others() -> None:
    found = rows("kept 01 10", "kept 02 10", "kept 03 10", "kept 04 10")
    assert stay(found, active="c3", keep_last=2) == {"c2": "last", "c3": "active, last good one, last"}


def test_the_last_of_each_day_stays_for_so_many_days_that_have_one() -> None:
    found = rows("kept 01 10", "kept 01 20", "kept 05 08", "kept 05 09", "kept 09 10")
    assert stay(found, active="c4", keep_daily=2) == {"c3": "daily", "c4": "active, last good one, daily"}
    assert set(stay(found, active="c4", keep_daily=9)) == {"c1", "c3", "c4"}


def test_a_day_is_one_of_the_zone_and_not_of_the_ledger() -> None:
    found = rows("kept 01 22", "kept 02 01", "kept 02 23")
    assert set(stay(found, active="c2", keep_daily=9)) == {"c0", "c2"}
    two_east = timezone(timedelta(hours=2))  # there it is the 2nd, the 2nd and the 3rd
    assert set(stay(found, active="c2", keep_daily=9, zone=two_east)) == {"c1", "c2"}


def test_both_rules_together_keep_what_either_keeps() -> None:
    found = rows("kept 01 10", "kept 02 10", "kept 03 08", "kept 03 09", "kept 03 10")
    assert set(stay(found, active="c4", keep_last=2, keep_daily=2)) == {"c1", "c3", "c4"}


def test_the_active_one_stays_however_old_it_is() -> None:
    found = rows("kept 01 10", "kept 02 10", "kept 03 10")
    assert stay(found, active="c0", good="c2", keep_last=1) == {"c0": "active", "c2": "last good one, last"}


def test_what_is_pinned_stays_and_what_was_undone_does_not() -> None:
    found = rows("undone+ 01 10", "undone 02 10", "kept 03 10")
    assert set(stay(found, active="c2", keep_last=9, keep_daily=9)) == {"c0", "c2"}


def test_undone_ones_count_for_no_rule() -> None:
    found = rows("kept 01 10", "kept 02 10", "undone 02 11", "undone 03 10")
    assert set(stay(found, active="c1", keep_last=2)) == {"c0", "c1"}
    assert set(stay(found, active="c1", keep_daily=2)) == {"c0", "c1"}


def test_a_candidate_is_never_taken() -> None:
    found = rows("kept 01 10", "kept 02 10", "candidate 02 11")
    assert stay(found, active="c1", keep_last=1)["c2"] == "waits for its verdict"


def test_when_the_newest_kept_one_is_damaged_the_last_whole_one_stays_too() -> None:
    found = rows("kept 01 10", "kept 02 10", "kept 03 10")
    why = stay(found, active="c2", good="c1", keep_last=1)
    assert why == {"c1": "last good one", "c2": "active, last good one, last"}


def test_what_was_pruned_already_is_left_out_and_counts_for_nothing() -> None:
    found = rows("kept 01 10", "kept- 02 10", "kept 03 10")
    assert reasons(found, Policy(keep_last=2), active="c2", good="c2", zone=UTC).keys() == {"c0", "c2"}
    assert set(stay(found, active="c2", keep_last=2)) == {"c0", "c2"}


@pytest.mark.parametrize("policy", [{}, {"keep_last": 0}, {"keep_last": 0, "keep_daily": 0}])
def test_an_empty_policy_is_refused(policy: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="an empty policy would keep nothing"):
        Policy(**policy)


@pytest.mark.parametrize("value", [-1, True, 1.5, "3"])
def test_a_policy_is_made_of_whole_numbers(value: object) -> None:
    with pytest.raises(UsageError, match="--keep-daily is a whole number"):
        Policy(keep_last=1, keep_daily=value)  # type: ignore[arg-type]
