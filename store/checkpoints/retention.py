"""Which checkpoints a policy keeps, and why: what `checkpoints prune` goes by.

Invariant: pure. The active checkpoint, what is pinned, what has no verdict yet and the last good one stay
whatever the policy says. Knows no file and no ledger, only rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any

from corpus.errors import UsageError

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How many checkpoints are to stay; at least one of the two."""

    keep_last: int = 0
    """The newest ones that were kept by their verdict."""
    keep_daily: int = 0
    """The last kept one of each day, for so many days that have one."""

    def __post_init__(self) -> None:
        for name, value in self.rules.items():
            if type(value) is not int or value < 0:
                raise UsageError(f"--{name.replace('_', '-')} is a whole number from 0, not {value}")
        if not any(self.rules.values()):
            raise UsageError("an empty policy would keep nothing: give --keep-last N or --keep-daily N")

    @property
    def rules(self) -> dict[str, int]:
        """The two numbers by name."""
        return {"keep_last": self.keep_last, "keep_daily": self.keep_daily}


def reasons(
    rows: Sequence[Row], policy: Policy, *, active: str, good: str | None, zone: tzinfo | None = None
) -> dict[str, list[str]]:
    """Why each checkpoint stays, by id, oldest first; one with no reason may go.

    rows: `id`, `number`, `state`, `pinned`, `pruned` and `at` (ISO 8601) of each; those pruned already are
    left out. active, good: ids of the active checkpoint and of the last one that was kept and is whole.
    zone: whose days they are; None is this machine's. Undone checkpoints count for no rule.
    """
    there = sorted((row for row in rows if row["pruned"] is None), key=lambda row: row["number"])
    kept = [row for row in reversed(there) if row["state"] == "kept"]
    last = {row["id"] for row in kept[: policy.keep_last]}
    daily = _daily(kept, policy.keep_daily, zone)
    found: dict[str, list[str]] = {}
    for row in there:
        of_this = {
            "active": row["id"] == active,
            "pinned": bool(row["pinned"]),
            "waits for its verdict": row["state"] == "candidate",
            "last good one": row["id"] in (good, kept[0]["id"] if kept else None),
            "last": row["id"] in last,
            "daily": row["id"] in daily,
        }
        found[row["id"]] = [why for why, holds in of_this.items() if holds]
    return found


def _daily(kept: Iterable[Row], days: int, zone: tzinfo | None) -> set[str]:
    """Of these checkpoints, newest first, the last of each of the newest `days` days."""
    last_of: dict[str, str] = {}
    for row in kept:
        day = datetime.fromisoformat(row["at"]).astimezone(zone).date().isoformat()
        last_of.setdefault(day, row["id"])
    return {last_of[day] for day in sorted(last_of, reverse=True)[:days]}
