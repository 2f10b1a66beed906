"""The choice of pairs for the next update: new pairs, and replay, which is pairs of earlier updates.

Invariant: pure. New pairs keep their order, and no source has more of them than its cap. Of the answers that
logs prefer, few are nearly the same: whoever writes one answer many times, under one name or under many,
teaches it only a few times. The seed decides which pairs are replayed. If there are too few new pairs, there
is no update, and the reason gives both numbers.
"""

import random
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from corpus.text import jaccard, word_set
from store.ledger.records import Pair

NEAR = 0.6
"""Smallest Jaccard similarity of the word sets of two answers that are nearly the same: "Send the lamp to
bob." and "Send the door to bob." (0.67), but not "Use the brush." and "Use the sander." (0.5)."""


@dataclass(frozen=True, kw_only=True)
class SourceCaps:
    """How much one source, and one answer, may contribute to an update."""

    per_source: int
    """Largest number of new pairs of one source."""
    alike_per_source: int = 4
    """Largest number of new pairs of one source whose chosen answers are from logs and nearly the same."""
    alike: int = 16
    """The same for all sources together."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """The pairs of an update, or the reason why there is no update."""

    new: list[Pair]
    """Pairs that no update has used."""
    replay: list[Pair]
    """Pairs that an earlier update has used."""
    reason: str = ""
    """Why there is no update; "" if there is one."""


def eligible(new: Sequence[Pair], caps: SourceCaps) -> list[Pair]:
    """Return the new pairs that are within the caps, in their order.

    The cap of a source does not apply to pairs whose source is "", which come from declared examples. The
    caps of similar answers apply to answers from logs alone: an answer of the model itself brings nothing in
    from outside, and a short right answer may well be the same each time.
    """
    counted: Counter[str] = Counter()
    groups: list[tuple[frozenset[str], Counter[str]]] = []
    chosen = []
    for pair in new:
        alike = _group(pair.chosen, groups) if pair.chosen_from.startswith("log:") else Counter[str]()
        if alike.total() >= caps.alike or alike[pair.source] >= caps.alike_per_source:
            continue
        counted[pair.source] += 1
        if not pair.source or counted[pair.source] <= caps.per_source:
            alike[pair.source] += 1
            chosen.append(pair)
    return chosen


def _group(answer: str, groups: list[tuple[frozenset[str], Counter[str]]]) -> Counter[str]:
    """Return how many answers like this one each source has; an answer that is like none begins a group."""
    words = word_set(answer)
    for first, counted in groups:
        if jaccard(words, first) >= NEAR:
            return counted
    groups.append((words, Counter()))
    return groups[-1][1]


def count_teaching(new: Sequence[Pair], *, caps: SourceCaps, counters: Collection[str]) -> int:
    """Return the number of eligible pairs that teach a behaviour.

    Pairs of counter-behaviours are not counted, because they only keep a behaviour from being overdone.
    """
    return sum(pair.behaviour not in counters for pair in eligible(new, caps))


def propose(
    new: Sequence[Pair],
    used: Sequence[Pair],
    *,
    minimum: int,
    caps: SourceCaps,
    counters: Collection[str],
    replay_share: float,
    seed: int,
) -> Proposal:
    """Choose the pairs of an update, and return them, or the reason why there is no update.

    Args:
        new: The pairs that no update has used.
        used: The pairs of earlier updates that were kept, from which the replay is drawn.
        minimum: Smallest number of new pairs that teach a behaviour; with fewer there is no update.
        caps: How much one source, and one answer, may contribute.
        counters: Names of the counter-behaviours, whose pairs do not count towards the minimum.
        replay_share: Share of replayed pairs in the whole update, at least 0 and under 1.
        seed: Seed of the draw from `used`.
    """
    chosen = eligible(new, caps)
    teaching = count_teaching(new, caps=caps, counters=counters)
    if teaching < minimum:
        reason = f"{teaching} new pairs of what is to be learnt, an update needs {minimum}"
        return Proposal(new=[], replay=[], reason=reason)
    wanted = round(len(chosen) * replay_share / (1 - replay_share))
    replay = random.Random(seed).sample(list(used), min(wanted, len(used)))
    return Proposal(new=chosen, replay=sorted(replay, key=lambda pair: pair.id))
