"""The choice of pairs for the next update: new pairs, and replay, which is pairs of earlier updates.

Invariant: pure. New pairs keep their order, and no source has more of them than its cap. The seed decides
which pairs are replayed. If there are too few new pairs, there is no update, and the reason gives both
numbers.
"""

import random
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from store.ledger.records import Pair


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """The pairs of an update, or the reason why there is no update."""

    new: list[Pair]
    """Pairs that no update has used."""
    replay: list[Pair]
    """Pairs that an earlier update has used."""
    reason: str = ""
    """Why there is no update; "" if there is one."""


def eligible(new: Sequence[Pair], per_source: int) -> list[Pair]:
    """Return the new pairs, without those after the first `per_source` pairs of a source.

    The cap does not apply to pairs whose source is "", which come from declared examples.
    """
    counted: Counter[str] = Counter()
    chosen = []
    for pair in new:
        counted[pair.source] += 1
        if not pair.source or counted[pair.source] <= per_source:
            chosen.append(pair)
    return chosen


def count_teaching(new: Sequence[Pair], *, per_source: int, counters: Collection[str]) -> int:
    """Return the number of eligible pairs that teach a behaviour.

    Pairs of counter-behaviours are not counted, because they only keep a behaviour from being overdone.
    """
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
    """Choose the pairs of an update, and return them, or the reason why there is no update.

    Args:
        new: The pairs that no update has used.
        used: The pairs of earlier updates that were kept, from which the replay is drawn.
        minimum: Smallest number of new pairs that teach a behaviour; with fewer there is no update.
        per_source: Largest number of new pairs of one source.
        counters: Names of the counter-behaviours, whose pairs do not count towards the minimum.
        replay_share: Share of replayed pairs in the whole update, at least 0 and under 1.
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
