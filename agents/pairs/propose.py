"""The choice of pairs for the next update.

Invariant: pure. New pairs come in the order of their ids, no source beyond its cap; the replay of kept pairs
is drawn from the seed. Too few new pairs make no update, and the reason says how many there are and how many
are needed.
"""

import random
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from store.ledger.records import Pair


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """The pairs of an update, or the reason for having none."""

    new: list[Pair]
    replay: list[Pair]
    reason: str = ""


def eligible(new: Sequence[Pair], per_source: int) -> list[Pair]:
    """Return the new pairs, without those that exceed their source's cap."""
    counted: Counter[str] = Counter()
    chosen = []
    for pair in new:
        counted[pair.source] += 1
        if not pair.source or counted[pair.source] <= per_source:
            chosen.append(pair)
    return chosen


def count_teaching(new: Sequence[Pair], *, per_source: int, counters: Collection[str]) -> int:
    """Count the eligible pairs that teach; those of counter-behaviours only limit what is taught."""
    return sum(pair.behaviour not in counters for pair in eligible(new, per_source))


def propose(
    new: Sequence[Pair],
    used: Sequence[Pair],
    *,
    minimum: int,
    per_source: int,
    counters: Collection[str],
    replay_share: float,
    seed: int,
) -> Proposal:
    """Choose the pairs of an update.

    Args:
        new: The pairs that no update has used.
        used: The pairs of kept updates, for replay.
        minimum: Pairs that must teach, or there is no update.
        per_source: Cap on the new pairs of one source.
        counters: Names of the counter-behaviours, whose pairs do not count towards the minimum.
        replay_share: Share of replay in the whole update, from 0 to under 1.
        seed: Seed of the draw from `used`.
    """
    chosen = eligible(new, per_source)
    teaching = count_teaching(new, per_source=per_source, counters=counters)
    if teaching < minimum:
        reason = f"{teaching} new pairs of what is to be learnt, an update needs {minimum}"
        return Proposal(new=[], replay=[], reason=reason)
    wanted = round(len(chosen) * replay_share / (1 - replay_share))
    replay = random.Random(seed).sample(list(used), min(wanted, len(used)))
    return Proposal(new=chosen, replay=sorted(replay, key=lambda pair: pair.id))
