"""The course of a verdict's evidence over the scenarios, and what would have changed it.

Invariant: pure; everything follows from the tests that the ledger has, whatever the present settings are. A
test of an older version, which has no outcomes, has no course.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from corpus.aliases import Json
from loop.verdict import evidence
from loop.verdict.claims import Claim, Paired, batches
from loop.verdict.evidence import ENOUGH


@dataclass(frozen=True, kw_only=True)
class Course:
    """The course of the evidence of one behaviour."""

    behaviour: str
    outcome: str
    of: str
    """What the evidence is of: `rise`, `fall` (of a behaviour that was to be unlearnt) or `held`."""
    margin: float
    """The drop that "held" had to exclude."""
    scenarios: list[int]
    """Number of scenarios after each batch."""
    values: list[float]
    """The E-value after each batch; at 20 it is enough."""
    turns: int | None
    """Smallest number of scenarios that, turned the other way, would have changed whether it is enough; None
    if no number would."""


def courses(tests: Iterable[Json]) -> list[Course]:
    """Return the course of each behaviour of a verdict.

    Args:
        tests: The tests of the verdict, as the ledger has them.
    """
    return [_course(test) for test in tests if "outcomes" in test]


def _course(test: Json) -> Course:
    before, after = test["outcomes"]
    claim = Claim(behaviour=test["behaviour"], scenarios=test["of"], samples=test["samples"])
    drops = Paired(claim=claim, before=before, after=after).drops
    margin, falls = float(test["margin"]), bool(test.get("falls"))
    is_rise = falls or test["outcome"] == "improved" or (test["meant"] and test["outcome"] != "held")

    if falls:  # the evidence of a fall is that of a rise with the signs changed
        drops = tuple(-drop for drop in drops)

    def value(some: Sequence[float]) -> float:
        return evidence.improved(some) if is_rise else evidence.held(some, margin)

    ends = [places.stop for places in batches(len(drops))]
    return Course(
        behaviour=claim.behaviour,
        outcome=test["outcome"],
        of="fall" if falls else "rise" if is_rise else "held",
        margin=margin,
        scenarios=ends,
        values=[float(f"{value(drops[:end]):.4g}") for end in ends],
        turns=_turns(drops, value),
    )


def _turns(drops: Sequence[float], value: Callable[[Sequence[float]], float]) -> int | None:
    """Return how many scenarios must turn for the evidence to change sides of 20; None if no number does.

    Args:
        drops: The drops, with the signs changed if the behaviour was to be unlearnt.
        value: The E-value of drops.
    """
    was_enough = value(drops) >= ENOUGH
    # Evidence that is enough is spoilt soonest by the scenarios that speak most for it, and vice versa.
    ordered, worst = sorted(drops, reverse=not was_enough), 1.0 if was_enough else -1.0
    for count in range(1, len(ordered) + 1):
        turned = [worst] * count + ordered[count:]
        if (value(turned) >= ENOUGH) != was_enough:
            return count
    return None
