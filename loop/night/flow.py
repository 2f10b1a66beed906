"""Which work follows which outcome: the one place that knows the order of a night.

    extract                                            (by day, one for each conversation)
    plan -> listen to turns -> [dream, attempt, pair] for each behaviour -> listen to attempts -> propose
         -> measure and read before -> train -> measure and read after -> locate -> rule -> settle
    a merge, begun by hand: measure and read before -> merge -> ... as after train

Invariant: pure. Work runs in the order in which it is queued, so queueing is ordering. A night always ends
with `settle`, whatever failed: there the mapping is made to hold the active checkpoint and the night is closed.
"""

from collections.abc import Sequence

from store.queue.outcome import Outcome
from store.queue.work import Work

FollowUp = tuple[str, str]
"""(kind, subject) of work to queue."""

NIGHT_KINDS = (
    *("plan", "listen", "dream", "attempt", "pair", "propose"),
    *("measure", "read", "train", "merge", "locate", "rule", "settle"),
)
"""Work of a night, which needs the model server and the trainer."""
DECIDING = ("plan", "propose", "train", "merge", "rule")
"""Work without whose outcome a night cannot go on."""


def follow(item: Work, outcome: Outcome) -> list[FollowUp]:
    """What is to be done after this outcome."""
    if item.kind == "plan":
        if outcome.decision == "nothing":
            return [("listen", "turns"), ("settle", "night")]
        lessons = [(kind, name) for name in outcome.names for kind in ("dream", "attempt", "pair")]
        return [("listen", "turns"), *lessons, ("listen", "attempts"), ("propose", "update")]
    if item.kind == "propose":
        if outcome.decision == "nothing":
            return [("settle", "night")]
        return [*_before(outcome.names), ("train", "update")]
    if item.kind in ("train", "merge"):
        if outcome.decision == "refused":
            return [("settle", "night")]
        return [*_measure("after", 0, outcome.names), ("read", "after"), ("locate", "update"), ("rule", "0")]
    if item.kind == "rule":
        if outcome.decision != "inconclusive":
            return [("settle", "night")]
        round_ = int(item.subject) + 1
        again = [*_measure("before", round_, outcome.names), *_measure("after", round_, outcome.names)]
        return [*again, ("rule", str(round_))]
    return []


def merging(names: Sequence[str]) -> list[FollowUp]:
    """What the night of a merge begins with: its update is planned already. names: of all behaviours."""
    return [*_before(names), ("merge", "update")]


def follow_failure(item: Work) -> list[FollowUp]:
    """What is to be done when this work was set aside."""
    return [("settle", "night")] if item.kind in DECIDING else []


def _before(names: Sequence[str]) -> list[FollowUp]:
    return [*_measure("before", 0, names), ("read", "before")]


def _measure(when: str, round_: int, names: Sequence[str]) -> list[FollowUp]:
    return [("measure", f"{when}/{round_}/{name}") for name in names]
