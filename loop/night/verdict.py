"""The verdict on an update: improved (or unlearnt) where it meant to, and not worse elsewhere.

Invariant: pure: the same measurements give the same verdict, with every test and its figures. A verdict that
the figures do not carry is "inconclusive", never a guess; the caller then measures another round, and after
the last one rolls back.
"""

from dataclasses import dataclass
from math import comb, sqrt
from typing import Protocol

IMPROVED_P = 0.05
"""One-sided level of the exact McNemar test on a behaviour that the update meant to change."""
MARGIN = 0.05
"""Non-inferiority margin: a drop of the pass rate that matters."""
MOST_NAMED = 8
"""Concepts that a verdict names one by one."""
MOST_JOINT = 4
"""Concepts that are named of those that moved together."""
Z = 1.6449
"""Normal quantile of a one-sided 95 % bound."""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """One behaviour's outcomes on the same scenarios before and after, one character each ("1" passed)."""

    behaviour: str
    before: str
    after: str
    meant: bool
    """Whether the update meant to improve it."""
    falls: bool = False
    """Whether it meant to unlearn it: then a fall is what it is for, and no fault."""
    gated: bool = True
    """Whether it must not get worse: a counter-behaviour, or a behaviour that was meant or learnt before. A
    habit that nobody has complained of yet is measured and told, but decides nothing."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the gate allows."""

    margin: float = MARGIN
    perplexity: float = 1.10
    """Largest ratio of the perplexity on ordinary text, after to before."""
    drift: float = 1.5
    """Largest standardised move of a concept's reading."""
    joint_drift: float = 0.5
    """Largest distance that all readings moved together, in spreads per concept."""


class Together(Protocol):
    """How far all readings moved together: see `agents.readout.drift`."""

    @property
    def distance(self) -> float: ...
    @property
    def parts(self) -> dict[str, float]: ...


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The decision and what it rests on."""

    decision: str
    """keep, roll back or inconclusive."""
    reasons: list[str]
    tests: list[dict[str, object]]


def mcnemar(gained: int, lost: int) -> float:
    """One-sided exact p-value that the pass rate did not rise: P(X >= gained), X ~ Bin(gained + lost, 1/2)
    (McNemar 1947, exact form)."""
    flips = gained + lost
    return float(sum(comb(flips, k) for k in range(gained, flips + 1)) / 2**flips)


def drop_bounds(gained: int, lost: int, total: int) -> tuple[float, float]:
    """One-sided 95 % lower and upper bound of the drop of a paired pass rate (Agresti and Min 2005: half an
    observation added to each cell, then Wald)."""
    b, c, n = lost + 0.5, gained + 0.5, total + 2.0
    drop = (b - c) / n
    error = sqrt((b + c) - (b - c) ** 2 / n) / n
    return drop - Z * error, drop + Z * error


def interval(passed: int, trials: int) -> tuple[float, float]:
    """95 % interval of a pass rate (Wilson 1927)."""
    if not trials:
        return 0.0, 1.0
    z, p = 1.96, passed / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


def decide(
    paired: list[Paired],
    *,
    perplexity: tuple[float, float],
    drift: dict[str, float],
    joint: Together | None = None,
    limits: Limits,
    last_round: bool,
) -> Decision:
    """The verdict on one update.

    perplexity: before and after, on held-out ordinary text. drift: standardised move of each concept. joint:
    of all together; None where that is not known.
    """
    tests = [_compare(item, limits) for item in paired]
    faults, open_questions = [], []
    for test in tests:
        if test["outcome"] == "worse":
            faults.append(
                f"{test['behaviour']} fell from {test['before']} to {test['after']} of {test['trials']}"
            )
        elif test["outcome"] == "stays":
            open_questions.append(f"{test['behaviour']} was to be unlearnt and has not fallen beyond chance")
        elif test["outcome"] == "unsure":
            open_questions.append(f"{test['behaviour']} may be worse by over {limits.margin:.0%}")
    gained = [str(test["behaviour"]) for test in tests if test["outcome"] == "improved"]
    lost = [str(test["behaviour"]) for test in tests if test["outcome"] == "unlearnt"]
    health, harm = _health(perplexity, drift, joint, limits)
    tests, faults = tests + health, faults + harm
    if faults:
        return Decision(decision="roll back", reasons=faults, tests=tests)
    if not gained and not lost:
        open_questions.append("nothing that the update meant to improve has improved beyond chance")
    if open_questions:
        decision = "roll back" if last_round else "inconclusive"
        return Decision(decision=decision, reasons=open_questions, tests=tests)
    untaught = [
        f"{t['behaviour']}, which nobody has taught yet, went from {t['before']} to {t['after']} of {t['trials']}"
        for t in tests
        if t.get("outcome") == "not gated"
    ]
    done = [
        f"{what}: {', '.join(names)}" for what, names in (("improved", gained), ("unlearnt", lost)) if names
    ]
    reasons = [f"{'; '.join(done)}; nothing {'else ' if lost else ''}taught or guarded is worse", *untaught]
    return Decision(decision="keep", reasons=reasons, tests=tests)


def _compare(item: Paired, limits: Limits) -> dict[str, object]:
    """One behaviour's test: improved, held, unsure or worse; of one to be unlearnt: unlearnt, held or
    stays."""
    outcomes = list(zip(item.before, item.after, strict=True))
    gained, lost, trials = outcomes.count(("0", "1")), outcomes.count(("1", "0")), len(outcomes)
    low, high = drop_bounds(gained, lost, trials)
    p = mcnemar(gained, lost)
    if item.falls:
        outcome = _fallen(item.before.count("1"), gained, lost)
        p = mcnemar(lost, gained)
    elif item.meant and p < IMPROVED_P:
        outcome = "improved"
    elif high < limits.margin:
        outcome = "held"
    elif not item.gated:
        outcome = "not gated"
    else:
        outcome = "worse" if low > 0 and (lost - gained) / trials >= limits.margin else "unsure"
    return {
        "behaviour": item.behaviour,
        "meant": item.meant,
        **({"falls": True} if item.falls else {}),
        "before": item.before.count("1"),
        "after": item.after.count("1"),
        "trials": trials,
        "gained": gained,
        "lost": lost,
        "p": round(p, 6),
        "drop_at_most": round(high, 4),
        "outcome": outcome,
    }


def _fallen(passed: int, gained: int, lost: int) -> str:
    """What became of a behaviour that was to be unlearnt, by the same test the other way round; one that
    passes so seldom that no fall could show is gone already, and is to hold there."""
    if mcnemar(lost, gained) < IMPROVED_P:
        return "unlearnt"
    gone = mcnemar(passed, 0) >= IMPROVED_P and mcnemar(gained, lost) >= IMPROVED_P
    return "held" if gone else "stays"


def _health(
    perplexity: tuple[float, float], drift: dict[str, float], joint: Together | None, limits: Limits
) -> tuple[list[dict[str, object]], list[str]]:
    """What may speak against an update whatever its pass rates: the tests, and the faults found."""
    before, after = perplexity
    ratio = after / before if before > 0 else float("inf")
    tests: list[dict[str, object]] = [
        {"perplexity": [round(before, 4), round(after, 4)], "ratio": round(ratio, 4)},
        {"drift": {name: round(value, 3) for name, value in sorted(drift.items())}},
    ]
    faults = []
    if not ratio <= limits.perplexity:  # also when it is not a number
        faults.append(f"perplexity on ordinary text rose {ratio:.2f}x (limit {limits.perplexity:.2f}x)")
    moved = sorted(drift.items(), key=lambda item: (-abs(item[1]), item[0]))
    beyond = [(name, value) for name, value in moved if not abs(value) <= limits.drift]
    for name, value in beyond[:MOST_NAMED]:
        faults.append(f"the reading of '{name}' moved by {value:+.1f} spreads (limit {limits.drift:.1f})")
    if len(beyond) > MOST_NAMED:
        faults.append(
            f"and {len(beyond) - MOST_NAMED} more readings moved by over {limits.drift:.1f} spreads"
        )
    if joint is not None:
        parts = list(joint.parts.items())[:MOST_NAMED]
        tests.append(
            {"joint_drift": round(joint.distance, 3), "parts": {name: round(v, 3) for name, v in parts}}
        )
        if not joint.distance <= limits.joint_drift:
            told = ", ".join(f"'{name}' {drift.get(name, 0.0):+.1f}" for name, _ in parts[:MOST_JOINT])
            faults.append(
                f"the readings moved together by {joint.distance:.2f} spreads a concept "
                f"(limit {limits.joint_drift:.2f}), most by {told}"
            )
    return tests, faults
