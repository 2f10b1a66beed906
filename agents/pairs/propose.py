"""Which pairs make the next update.

Invariant: pure; new pairs in the order of their ids, no source beyond its cap, replay of kept pairs drawn
from the seed; too few new pairs make no update, and the reason says how many are missing.
"""

import random
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from store.queries import Row


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """The pairs of an update, or the reason for having none."""

    new: list[Row]
    replay: list[Row]
    reason: str = ""


def eligible(new: Sequence[Row], per_source: int) -> list[Row]:
    """The new pairs without what a source has over its cap."""
    counted: Counter[str] = Counter()
    chosen = []
    for pair in new:
        counted[pair["source"]] += 1
        if not pair["source"] or counted[pair["source"]] <= per_source:
            chosen.append(pair)
    return chosen


def count_teaching(new: Sequence[Row], *, per_source: int, counters: Collection[str]) -> int:
    """How many new pairs teach something: those of counter-behaviours only keep it from going too far."""
    return sum(pair["behaviour"] not in counters for pair in eligible(new, per_source))


def propose(
    new: Sequence[Row],
    used: Sequence[Row],
    *,
    minimum: int,
    per_source: int,
    counters: Collection[str],
    replay_share: float,
    seed: int,
) -> Proposal:
    """Choose among the new pairs and those of kept updates.

    counters: names of the counter-behaviours, whose pairs do not help to reach the minimum. replay_share: part of
    the whole update that is replay, 0 to under 1.
    """
    chosen, found = eligible(new, per_source), count_teaching(new, per_source=per_source, counters=counters)
    if found < minimum:
        reason = f"{found} new pairs of what is to be learnt, an update needs {minimum}"
        return Proposal(new=[], replay=[], reason=reason)
    wanted = round(len(chosen) * replay_share / (1 - replay_share))
    replay = random.Random(seed).sample(list(used), min(wanted, len(used)))
    return Proposal(new=chosen, replay=sorted(replay, key=lambda pair: str(pair["id"])))
