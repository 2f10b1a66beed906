"""The verdict on an update: did it improve or unlearn what it was meant to, and make nothing else worse?

Invariant: pure. The same measurements give the same verdict, which lists every test with its figures. If the
figures are not enough for a verdict, it is "inconclusive". Then the caller measures another round. After the
last round the verdict is "roll back" instead.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb, sqrt
from typing import Protocol

from corpus.aliases import Json

IMPROVED_P = 0.05
"""Level of the one-sided exact McNemar test on a behaviour that the update was meant to change."""
MARGIN = 0.05
"""Non-inferiority margin: the smallest drop of a pass rate that matters, as a share of 1."""
MOST_NAMED = 8
"""Largest number of concepts with too large a move that a verdict names one by one."""
MOST_JOINT = 4
"""Largest number of concepts that a verdict names for the joint move of all readings."""
Z = 1.6449
"""The 95 % quantile of the normal distribution, for one-sided 95 % bounds."""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """One behaviour's outcomes on the same scenarios before and after an update."""

    behaviour: str
    before: str
    """The outcomes before the update, one character for each scenario: "1" passed, "0" failed."""
    after: str
    """The outcomes after the update, in the same form and order."""
    meant: bool
    """Whether the update was meant to improve the behaviour."""
    falls: bool = False
    """Whether the update was meant to unlearn the behaviour, so that a lower pass rate is the aim."""
    gated: bool = True
    """Whether the verdict depends on this behaviour: True for counter-behaviours, for the update's targets,
    and for behaviours that were learnt before. The others are only measured and reported."""
    margin: float | None = None
    """The behaviour's own non-inferiority margin; None for the margin of `Limits`."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits that an update must not exceed."""

    margin: float = MARGIN
    """Non-inferiority margin of a pass rate, as a share of 1."""
    perplexity: float = 1.10
    """Largest ratio of the perplexity on ordinary text after the update to that before."""
    drift: float = 1.5
    """Largest move of a concept's reading, in standard deviations over the probe set."""
    joint_drift: float = 0.5
    """Largest joint move of all readings, in standard deviations per concept."""


class JointMove(Protocol):
    """The joint move of all readings; `agents.readout.drift` defines it."""

    @property
    def distance(self) -> float:
        """The distance of the move, in standard deviations per concept."""

    @property
    def parts(self) -> dict[str, float]:
        """Each concept's part of the squared distance, by concept, largest first."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A decision on an update, with its reasons and tests."""

    decision: str
    """The decision: keep, roll back or inconclusive."""
    reasons: list[str]
    """The reasons, as sentences for the user."""
    tests: list[Json]
    """Every test with its figures, in the form in which the ledger stores them."""
    again: tuple[str, ...] = ()
    """Of an inconclusive decision: the names of what is to be measured again. What the figures have answered
    is not: another look at it would only be another chance of error."""


@dataclass(frozen=True, kw_only=True)
class _BehaviourTest:
    """The result of the test of one behaviour."""

    paired: Paired
    passed: tuple[int, int]
    """Number of scenarios that passed before, and number that passed after."""
    trials: int
    """Number of scenarios."""
    gained: int
    """Number of scenarios that failed before and passed after."""
    lost: int
    """Number of scenarios that passed before and failed after."""
    p: float
    """p-value of the one-sided McNemar test for a rise; for a fall if the behaviour was to be unlearnt."""
    drop_at_most: float
    """One-sided 95 % upper bound of the pass rate's drop."""
    outcome: str
    """The outcome: improved, held, not gated, unsure or worse. For a behaviour that the update was meant to
    unlearn: unlearnt, held or stays."""

    @property
    def name(self) -> str:
        """The behaviour's name."""
        return self.paired.behaviour

    def as_json(self) -> Json:
        """Return the test in the form in which the ledger stores it."""
        return {
            "behaviour": self.name,
            "meant": self.paired.meant,
            **({"falls": True} if self.paired.falls else {}),
            "before": self.passed[0],
            "after": self.passed[1],
            "trials": self.trials,
            "gained": self.gained,
            "lost": self.lost,
            "p": round(self.p, 6),
            "drop_at_most": round(self.drop_at_most, 4),
            "outcome": self.outcome,
        }


def mcnemar(gained: int, lost: int) -> float:
    """Return the exact one-sided p-value of the hypothesis that the pass rate did not rise (McNemar 1947).

    The value is P(X >= gained) for X ~ Bin(gained + lost, 1/2).

    Args:
        gained: Number of scenarios that failed before and passed after.
        lost: Number of scenarios that passed before and failed after.
    """
    flips = gained + lost
    return float(sum(comb(flips, k) for k in range(gained, flips + 1)) / 2**flips)


def drop_bounds(gained: int, lost: int, total: int) -> tuple[float, float]:
    """Return the one-sided 95 % lower and upper bounds of the drop of a paired pass rate.

    The method adds half an observation to each cell and takes the Wald interval (Agresti and Min 2005).

    Args:
        gained: Number of scenarios that failed before and passed after.
        lost: Number of scenarios that passed before and failed after.
        total: Number of scenarios.
    """
    b, c, n = lost + 0.5, gained + 0.5, total + 2.0
    drop = (b - c) / n
    error = sqrt((b + c) - (b - c) ** 2 / n) / n
    return drop - Z * error, drop + Z * error


def interval(passed: int, trials: int) -> tuple[float, float]:
    """Return the lower and upper end of a pass rate's 95 % confidence interval (Wilson 1927)."""
    if not trials:
        return 0.0, 1.0
    z, p = 1.96, passed / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


def decide(
    paired: Sequence[Paired],
    *,
    perplexity: tuple[float, float],
    drift: Mapping[str, float],
    joint: JointMove | None = None,
    limits: Limits,
    last_round: bool,
) -> Decision:
    """Return the verdict on one update.

    Args:
        paired: The outcomes of every behaviour before and after the update.
        perplexity: The perplexity on held-out ordinary text, before and after.
        drift: How far each concept's reading moved, in standard deviations, by concept.
        joint: The joint move of all readings; None if it is not known.
        limits: The limits that the update must not exceed.
        last_round: Whether no further round may follow, so that "inconclusive" becomes "roll back".
    """
    tests = [_compare(item, limits) for item in paired]
    figures, harm = _health(perplexity, drift, joint, limits)
    figures = [*(test.as_json() for test in tests), *figures]
    faults = [
        f"{test.name} fell from {test.passed[0]} to {test.passed[1]} of {test.trials}"
        for test in tests
        if test.outcome == "worse"
    ]
    if faults := [*faults, *harm]:
        return Decision(decision="roll back", reasons=faults, tests=figures)
    gained = [test.name for test in tests if test.outcome == "improved"]
    lost = [test.name for test in tests if test.outcome == "unlearnt"]
    if unanswered := _open_questions(tests, limits, changed=bool(gained or lost)):
        decision = "roll back" if last_round else "inconclusive"
        again = tuple(test.name for test in tests if _is_open(test, changed=bool(gained or lost)))
        return Decision(decision=decision, reasons=unanswered, tests=figures, again=again)
    untaught = [
        f"{test.name}, which nobody has taught yet, went from {test.passed[0]} to {test.passed[1]} "
        f"of {test.trials}"
        for test in tests
        if test.outcome == "not gated"
    ]
    done = [
        f"{word}: {', '.join(names)}" for word, names in (("improved", gained), ("unlearnt", lost)) if names
    ]
    reasons = [f"{'; '.join(done)}; nothing {'else ' if lost else ''}taught or guarded is worse", *untaught]
    return Decision(decision="keep", reasons=reasons, tests=figures)


def _open_questions(tests: Sequence[_BehaviourTest], limits: Limits, *, changed: bool) -> list[str]:
    """Return the questions that the figures do not answer yet, as reasons for the user.

    Args:
        tests: The tests of all behaviours.
        limits: The limits of the verdict.
        changed: Whether a behaviour has improved or was unlearnt beyond chance.
    """
    questions = []
    for test in tests:
        if test.outcome == "stays":
            questions.append(f"{test.name} was to be unlearnt and has not fallen beyond chance")
        elif test.outcome == "unsure":
            questions.append(f"{test.name} may be worse by over {_margin(test.paired, limits):.0%}")
    if not changed:
        questions.append("nothing that the update meant to improve has improved beyond chance")
    return questions


def _is_open(test: _BehaviourTest, *, changed: bool) -> bool:
    """Return whether more scenarios of a behaviour may answer a question: see `_open_questions`."""
    return test.outcome in ("stays", "unsure") or (test.paired.meant and not changed)


def _margin(item: Paired, limits: Limits) -> float:
    """Return the non-inferiority margin that applies to a behaviour."""
    return limits.margin if item.margin is None else item.margin


def _compare(item: Paired, limits: Limits) -> _BehaviourTest:
    """Test one behaviour and return the result."""
    outcomes = list(zip(item.before, item.after, strict=True))
    gained, lost, trials = outcomes.count(("0", "1")), outcomes.count(("1", "0")), len(outcomes)
    low, high = drop_bounds(gained, lost, trials)
    p, margin = mcnemar(gained, lost), _margin(item, limits)
    if item.falls:
        outcome = _compare_unlearnt(item.before.count("1"), gained, lost)
        p = mcnemar(lost, gained)
    elif item.meant and p < IMPROVED_P:
        outcome = "improved"
    elif high < margin:
        outcome = "held"
    elif not item.gated:
        outcome = "not gated"
    else:
        outcome = "worse" if low > 0 and (lost - gained) / trials >= margin else "unsure"
    return _BehaviourTest(
        paired=item,
        passed=(item.before.count("1"), item.after.count("1")),
        trials=trials,
        gained=gained,
        lost=lost,
        p=p,
        drop_at_most=high,
        outcome=outcome,
    )


def _compare_unlearnt(passed: int, gained: int, lost: int) -> str:
    """Return the outcome of a behaviour that the update was meant to unlearn: unlearnt, held or stays.

    The test is the same as for an improvement, in the other direction. A behaviour may pass too rarely before
    the update for any fall to be significant. Such a behaviour counts as already unlearnt: its outcome is
    "held" unless it rose.

    Args:
        passed: Number of scenarios that passed before.
        gained: Number of scenarios that failed before and passed after.
        lost: Number of scenarios that passed before and failed after.
    """
    if mcnemar(lost, gained) < IMPROVED_P:
        return "unlearnt"
    gone = mcnemar(passed, 0) >= IMPROVED_P and mcnemar(gained, lost) >= IMPROVED_P
    return "held" if gone else "stays"


def _health(
    perplexity: tuple[float, float], drift: Mapping[str, float], joint: JointMove | None, limits: Limits
) -> tuple[list[Json], list[str]]:
    """Test the perplexity and the readings; return these tests, and a reason for each limit exceeded."""
    before, after = perplexity
    ratio = after / before if before > 0 else float("inf")
    tests: list[Json] = [
        {"perplexity": [round(before, 4), round(after, 4)], "ratio": round(ratio, 4)},
        {"drift": {name: round(value, 3) for name, value in sorted(drift.items())}},
    ]
    faults = []
    if not ratio <= limits.perplexity:  # also true if the ratio is NaN
        faults.append(f"perplexity on ordinary text rose {ratio:.2f}x (limit {limits.perplexity:.2f}x)")
    moved = sorted(drift.items(), key=lambda item: (-abs(item[1]), item[0]))
    beyond = [(name, value) for name, value in moved if not abs(value) <= limits.drift]
    for name, value in beyond[:MOST_NAMED]:
        faults.append(
            f"the reading of '{name}' moved by {value:+.1f} standard deviations (limit {limits.drift:.1f})"
        )
    if len(beyond) > MOST_NAMED:
        faults.append(
            f"and {len(beyond) - MOST_NAMED} more readings moved by over {limits.drift:.1f} "
            "standard deviations"
        )
    if joint is not None:
        parts = list(joint.parts.items())[:MOST_NAMED]
        tests.append(
            {"joint_drift": round(joint.distance, 3), "parts": {name: round(v, 3) for name, v in parts}}
        )
        if not joint.distance <= limits.joint_drift:
            largest = ", ".join(f"'{name}' {drift.get(name, 0.0):+.1f}" for name, _ in parts[:MOST_JOINT])
            faults.append(
                f"the readings moved together by {joint.distance:.2f} standard deviations a concept "
                f"(limit {limits.joint_drift:.2f}), most by {largest}"
            )
    return tests, faults
