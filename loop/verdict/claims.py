"""What a verdict claims about each behaviour, and how many scenarios each round measures for it.

Invariant: pure. A margin and the scenarios of a round follow from the claims alone, never from an outcome: a
margin that follows from outcomes would prove nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from loop.verdict import evidence

BATCH = 32
"""Number of scenarios that are measured together; at least so many lie between two looks at the evidence."""
GROWTH = 1.5
"""How many times more scenarios there are after a round than after the one before."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim about one behaviour, which a verdict has to test."""

    behaviour: str
    meant: bool = False
    """Whether the update was meant to improve the behaviour."""
    falls: bool = False
    """Whether the update was meant to unlearn the behaviour, so that a lower pass rate is the aim."""
    gated: bool = True
    """Whether the verdict depends on this behaviour: True for counter-behaviours, for the update's targets,
    and for behaviours that were learnt before. The others are only measured and reported."""
    margin: float = 0.05
    """The smallest drop of the pass rate that matters, as a share of 1."""
    scenarios: int
    """Number of different scenarios that can be measured."""
    samples: int = 1
    """Number of answers to each scenario, of which the mean counts."""
    noise: float = evidence.NOISE
    """See `loop.verdict.evidence.shown_by`."""

    @property
    def is_target(self) -> bool:
        """Whether the update was meant to change the behaviour."""
        return self.meant or self.falls

    @property
    def guards(self) -> bool:
        """Whether the behaviour only has to be held."""
        return self.gated and not self.is_target


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The outcomes of one behaviour on the same scenarios before and after an update."""

    claim: Claim
    before: str
    """The outcomes before the update, one character for each answer: "1" passed, "0" failed. The answers to
    one scenario stand together."""
    after: str
    """The outcomes after the update, in the same form and order."""

    @cached_property
    def drops(self) -> tuple[float, ...]:
        """Each scenario's drop: the share of its answers that passed before minus the share after."""
        each = self.claim.samples
        if len(self.before) != len(self.after):
            raise ValueError(f"{self.claim.behaviour}: outcomes of unequal length before and after")
        sides = (_of_scenarios(self.before, each), _of_scenarios(self.after, each))
        return tuple(
            (first.count("1") - second.count("1")) / len(first) for first, second in zip(*sides, strict=True)
        )


def margin_of(claim: Claim, guards: int) -> float:
    """Return the margin at which a behaviour must be held.

    It is the claim's own margin, or a wider one if there are too few scenarios to show the claim's own.

    Args:
        claim: The claim.
        guards: Number of the night's guards.
    """
    return max(claim.margin, evidence.shown_by(claim.scenarios, guards, claim.noise))


def guards_among(claims: Iterable[Claim]) -> int:
    """Return the number of claims whose behaviour only has to be held; at least 1."""
    return max(1, sum(claim.guards for claim in claims))


def scenarios_after(claim: Claim, round_: int, *, guards: int, rounds: int) -> int:
    """Return how many scenarios of a behaviour are measured when a round is over, all rounds together.

    The first round of a guard has as many as can show that it is held; that of a target has one batch.

    Args:
        claim: The claim.
        round_: Number of the round, from 0.
        guards: Number of the night's guards.
        rounds: Largest number of rounds: the last one measures all that is left.
    """
    if round_ + 1 >= rounds:
        return claim.scenarios
    first = evidence.least_scenarios(margin_of(claim, guards)) if claim.guards else 1
    count = _whole(first)
    for _ in range(round_):
        count = _whole(count * GROWTH)
    return min(count, claim.scenarios)


def batches(count: int) -> list[range]:
    """Return the positions of this many scenarios in batches; the last batch may be smaller."""
    return [range(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]


def _whole(count: float) -> int:
    """Return a number of scenarios, rounded up to whole batches."""
    return BATCH * int(-(-count // BATCH))


def _of_scenarios(outcomes: str, samples: int) -> list[str]:
    """Return the outcomes of each scenario's answers."""
    return [outcomes[start : start + samples] for start in range(0, len(outcomes), samples)]
