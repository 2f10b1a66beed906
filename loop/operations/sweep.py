"""What a sweep says: whether steering by a concept raises a behaviour's pass rate, from outcomes at several strengths.

Each strength is held against strength 0 on the same scenarios and seeds by an exact McNemar test, two-sided, at 0.05
shared out among the strengths (Bonferroni). A strength at which ordinary text becomes much less likely has broken the
model: it is told and decides nothing. Invariant: pure: the same outcomes give the same verdict; nothing is called an
effect that chance explains.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loop.night.verdict import interval, mcnemar
from store.readings.records import PredictionOutcome

LEVEL = 0.05
"""Chance, over all strengths together, of calling nothing an effect."""
BROKEN = 1.5
"""Ratio of the perplexity on ordinary text to that at strength 0, over which the model counts as broken."""
RAISES, LOWERS, NOTHING, UNCLEAR = "raises", "lowers", "no effect", "unclear"


@dataclass(frozen=True, kw_only=True)
class Swept:
    """A behaviour at one strength."""

    strength: float
    """In units of the residual stream."""
    outcomes: str
    """One character a scenario: 1 passed, 0 failed."""
    perplexity: float
    """On ordinary text, steered so."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a sweep says."""

    verdict: str
    """raises, lowers, no effect or unclear: of the pass rate, with growing strength."""
    slope: float
    """Of the pass rate in each unit of strength: least squares over the strengths that did not break the model."""
    reasons: list[str]
    rows: list[dict[str, Any]]
    """One a strength: rate, interval, flips against strength 0, p, perplexity, whether it broke the model."""


def judged(swept: Sequence[Swept]) -> Found:
    """The verdict on these strengths, 0 among them, on the same scenarios in the same order."""
    zero = next(one for one in swept if one.strength == 0)
    rows = [_row(one, zero) for one in sorted(swept, key=lambda one: one.strength)]
    tried = [row for row in rows if row["strength"] and not row["broken"]]
    level = LEVEL / max(1, len(tried))
    effects = [row for row in tried if row["p"] < level]
    # Of each side the surest strength speaks: with more of it, what helped may begin to harm.
    best = [min(side, key=lambda row: float(row["p"])) for side in _sides(effects)]
    signs = {_sign(row) for row in best}
    verdict = NOTHING if not signs else UNCLEAR if len(signs) > 1 else RAISES if signs == {1} else LOWERS
    reasons = [_said(row, rows) for row in best] or [_nothing(tried, rows)]
    if broken := [f"{row['strength']:+g}" for row in rows if row["broken"]]:
        reasons.append(f"strengths that broke the model, and decide nothing: {', '.join(broken)}")
    return Found(
        verdict=verdict, slope=_slope([row for row in rows if not row["broken"]]), reasons=reasons, rows=rows
    )


def came_true(said: str, before: str, after: str) -> str:
    """What training did to a behaviour beside what was said of it: yes, no or open.

    `before` and `after` are outcomes on the same scenarios; "" where they were not measured.
    """
    if not before or not after:
        return "open"
    row = _row(
        Swept(strength=1.0, outcomes=after, perplexity=1.0),
        Swept(strength=0.0, outcomes=before, perplexity=1.0),
    )
    did = NOTHING if row["p"] >= LEVEL else RAISES if row["gained"] > row["lost"] else LOWERS
    return "yes" if did == said else "no"


def compared(prediction: PredictionOutcome) -> dict[str, Any]:
    """Return a prediction with pass rates instead of outcomes, and whether it came true."""
    updates = [
        {
            "id": update.id,
            "state": update.state,
            "before": _pass_count(update.before),
            "after": _pass_count(update.after),
            "came_true": came_true(prediction.said, update.before, update.after),
        }
        for update in prediction.updates
    ]
    keys = ("id", "behaviour", "said", "reason", "sweep_id", "checkpoint_id", "at")
    return {**{key: getattr(prediction, key) for key in keys}, "updates": updates}


def _pass_count(outcomes: str) -> dict[str, int] | None:
    """Return how many scenarios were passed, of how many; None where none was measured."""
    return {"passed": outcomes.count("1"), "trials": len(outcomes)} if outcomes else None


def _row(one: Swept, zero: Swept) -> dict[str, Any]:
    count = min(len(one.outcomes), len(zero.outcomes))
    flips = list(zip(zero.outcomes[:count], one.outcomes[:count], strict=True))
    gained, lost = flips.count(("0", "1")), flips.count(("1", "0"))
    passed, ratio = one.outcomes.count("1"), one.perplexity / zero.perplexity
    low, high = interval(passed, len(one.outcomes))
    return {
        "strength": one.strength,
        "passed": passed,
        "trials": len(one.outcomes),
        "low": round(low, 4),
        "high": round(high, 4),
        "gained": gained,
        "lost": lost,
        "p": float(f"{min(1.0, 2 * mcnemar(max(gained, lost), min(gained, lost))):.3g}"),
        "perplexity": round(one.perplexity, 4),
        "broken": not ratio <= BROKEN,  # also when it is not a number
    }


def _sides(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The rows of negative and of positive strength, those that there are."""
    sides = [[row for row in rows if row["strength"] < 0], [row for row in rows if row["strength"] > 0]]
    return [side for side in sides if side]


def _sign(row: dict[str, Any]) -> int:
    """1 where the pass rate grows with the strength."""
    return 1 if (row["gained"] > row["lost"]) == (row["strength"] > 0) else -1


def _said(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    zero = next(one for one in rows if not one["strength"])
    return (
        f"strength {row['strength']:+g}: {row['passed']} of {row['trials']} instead of {zero['passed']} "
        f"(p {row['p']:.2g})"
    )


def _nothing(tried: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> str:
    if not tried:
        return "every strength broke the model: try smaller ones"
    return "no strength changed the pass rate beyond chance: " + _said(
        min(tried, key=lambda row: row["p"]), rows
    )


def _slope(rows: Sequence[dict[str, Any]]) -> float:
    """Least squares of the pass rate on the strength; 0 for a single strength."""
    points = [(row["strength"], row["passed"] / row["trials"]) for row in rows if row["trials"]]
    count = len(points)
    mean_x, mean_y = (
        sum(part) / max(1, count) for part in (zip(*points, strict=True) if points else ((), ()))
    )
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
