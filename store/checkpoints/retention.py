"""The policy of `checkpoints prune`: which checkpoints stay, and why.

Invariant: pure. Under every policy the active checkpoint, pinned checkpoints, checkpoints without a verdict
and the last undamaged kept checkpoint stay. This module knows the ledger's records, but neither files nor the
ledger itself.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, tzinfo

from corpus.errors import UsageError
from store.ledger.records import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The rules that say how many checkpoints stay; at least one of the numbers is not 0."""

    keep_last: int = 0
    """Number of newest kept checkpoints that stay."""
    keep_daily: int = 0
    """Number of newest days whose last kept checkpoint stays; days without a kept checkpoint do not count."""

    def __post_init__(self) -> None:
        for name, value in self.rules.items():
            if type(value) is not int or value < 0:
                raise UsageError(f"--{name.replace('_', '-')} is a whole number from 0, not {value}")
        if not any(self.rules.values()):
            raise UsageError("an empty policy would keep nothing: give --keep-last N or --keep-daily N")

    @property
    def rules(self) -> dict[str, int]:
        """The two numbers, by the name of the field."""
        return asdict(self)


def reasons(
    checkpoints: Iterable[Checkpoint],
    policy: Policy,
    *,
    active: str,
    good: str | None,
    zone: tzinfo | None = None,
) -> dict[str, list[str]]:
    """Return the reasons why each checkpoint stays, by id, oldest first.

    A checkpoint without a reason may be pruned. Checkpoints that are pruned already are left out. The two
    rules of the policy count kept checkpoints only.

    Args:
        checkpoints: All checkpoints.
        policy: The rules.
        active: Id of the active checkpoint.
        good: Id of the last kept checkpoint whose files are undamaged; None if there is none.
        zone: The time zone in which days begin and end; None for the time zone of this machine.
    """
    stored = sorted((row for row in checkpoints if row.pruned is None), key=lambda row: row.number)
    kept = [row for row in reversed(stored) if row.state == "kept"]
    last = {row.id for row in kept[: policy.keep_last]}
    daily = _daily(kept, policy.keep_daily, zone)
    why: dict[str, list[str]] = {}
    for row in stored:
        rules = {
            "active": row.id == active,
            "pinned": row.pinned,
            "waits for its verdict": row.state == "candidate",
            "last good one": row.id in (good, kept[0].id if kept else None),
            "last": row.id in last,
            "daily": row.id in daily,
        }
        why[row.id] = [reason for reason, holds in rules.items() if holds]
    return why


def _daily(kept: Sequence[Checkpoint], days: int, zone: tzinfo | None) -> set[str]:
    """Return the ids of the last checkpoint of each day, for the newest `days` days that have one.

    Args:
        kept: The kept checkpoints, newest first.
        days: Number of days.
        zone: As in `reasons`.
    """
    last_of: dict[str, str] = {}
    for row in kept:
        day = datetime.fromisoformat(row.at).astimezone(zone).date().isoformat()
        last_of.setdefault(day, row.id)
    return {last_of[day] for day in sorted(last_of, reverse=True)[:days]}
