"""Which pairs make the next update.

Invariant: pure; new pairs in the order of their ids, no source beyond its cap, replay of kept pairs drawn
from the seed; too few new pairs make no update, and the reason says how many are missing.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from store.queries import Row


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """The pairs of an update, or the reason for having none."""

    new: list[Row]
    replay: list[Row]
    reason: str = ""


def propose(
    new: Sequence[Row], used: Sequence[Row], *, minimum: int, per_source: int, replay_share: float, seed: int
) -> Proposal:
    """Choose among the new pairs and those of kept updates.

    replay_share: part of the whole update that is replay, 0 to under 1.
    """
    counted: Counter[str] = Counter()
    chosen = []
    for pair in new:
        counted[pair["source"]] += 1
        if not pair["source"] or counted[pair["source"]] <= per_source:
            chosen.append(pair)
    if len(chosen) < minimum:
        return Proposal(new=[], replay=[], reason=f"{len(chosen)} new pairs, an update needs {minimum}")
    wanted = round(len(chosen) * replay_share / (1 - replay_share))
    replay = random.Random(seed).sample(list(used), min(wanted, len(used)))
    return Proposal(new=chosen, replay=sorted(replay, key=lambda pair: str(pair["id"])))
