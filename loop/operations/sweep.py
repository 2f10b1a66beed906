"""The verdict on a sweep: does steering by a concept raise a behaviour's pass rate?

The test compares each strength with strength 0 on the same scenarios and seeds. It is an exact two-sided
McNemar test at the level 0.05 divided by the number of strengths (Bonferroni). At some strengths ordinary
text becomes much less likely: such a strength has broken the model. It is reported, but does not count in the
verdict.

Invariant: pure. The same outcomes give the same verdict. A difference that is not significant is never called
an effect.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from loop.operations.results.readouts import PredictionCheck, StrengthResult, UpdateOutcome
from loop.verdict.rates import interval, mcnemar
from store.nights.results import PassCount
from store.readings.records import PredictionOutcome, TrainedUpdate

LEVEL = 0.05
"""Highest probability that a sweep reports an effect where there is none, over all its strengths."""
BROKEN = 1.5
"""Ratio of the perplexity at a strength to that at strength 0; above it the model counts as broken."""
RAISES, LOWERS, NOTHING, UNCLEAR = "raises", "lowers", "no effect", "unclear"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A behaviour's outcomes at one strength of steering."""

    strength: float
    """The strength, in the units of the residual stream."""
    outcomes: str
    """The outcomes, one character for each scenario: 1 passed, 0 failed."""
    perplexity: float
    """The perplexity on ordinary text, steered at this strength."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdict on a sweep, with the figures behind it."""

    verdict: str
    """The effect of a growing strength on the pass rate: raises, lowers, no effect or unclear."""
    slope: float
    """Change of the pass rate per unit of strength, by least squares; strengths that broke the model are left
    out."""
    reasons: list[str]
    """The reasons for the verdict, as sentences for the user."""
    rows: list[StrengthResult]
    """The results at each strength, in ascending order of strength."""


def judge(trials: Sequence[Trial]) -> Judgement:
    """Return the verdict on the trials of one sweep.

    Args:
        trials: One trial for each strength, 0 included, all on the same scenarios in the same order.
    """
    zero = next(trial for trial in trials if trial.strength == 0)
    rows = [_compare(trial, zero) for trial in sorted(trials, key=lambda trial: trial.strength)]
    tested = [row for row in rows if row.strength and not row.broken]
    level = LEVEL / max(1, len(tested))
    effects = [row for row in tested if row.p < level]
    # For each sign, the strength with the lowest p-value decides, because a larger strength may harm again.
    surest = [min(side, key=lambda row: row.p) for side in _sides(effects)]
    signs = {_sign(row) for row in surest}
    verdict = NOTHING if not signs else UNCLEAR if len(signs) > 1 else RAISES if signs == {1} else LOWERS
    reasons = [_describe(row, rows) for row in surest] or [_no_effect(tested, rows)]
    if broken := [f"{row.strength:+g}" for row in rows if row.broken]:
        reasons.append(f"strengths that broke the model, and do not count: {', '.join(broken)}")
    slope = _slope([row for row in rows if not row.broken])
    return Judgement(verdict=verdict, slope=slope, reasons=reasons, rows=rows)


def came_true(predicted: str, before: str, after: str) -> Literal["yes", "no", "open"]:
    """Return whether training changed a behaviour as predicted; "open" if outcomes are missing.

    Args:
        predicted: The predicted verdict.
        before: Outcomes before the update; "" if they were not measured.
        after: Outcomes after the update, on the same scenarios; "" if they were not measured.
    """
    if not before or not after:
        return "open"
    row = _compare(
        Trial(strength=1.0, outcomes=after, perplexity=1.0),
        Trial(strength=0.0, outcomes=before, perplexity=1.0),
    )
    effect = NOTHING if row.p >= LEVEL else RAISES if row.gained > row.lost else LOWERS
    return "yes" if effect == predicted else "no"


def check_prediction(prediction: PredictionOutcome) -> PredictionCheck:
    """Return a prediction with each later update's pass rates, and whether the update confirmed it."""
    return PredictionCheck(
        id=prediction.id,
        behaviour=prediction.behaviour,
        said=prediction.said,
        reason=prediction.reason,
        sweep_id=prediction.sweep_id,
        checkpoint_id=prediction.checkpoint_id,
        at=prediction.at,
        updates=[_check_update(prediction.said, update) for update in prediction.updates],
    )


def _check_update(predicted: str, update: TrainedUpdate) -> UpdateOutcome:
    return UpdateOutcome(
        id=update.id,
        state=update.state,
        before=_count(update.before),
        after=_count(update.after),
        came_true=came_true(predicted, update.before, update.after),
    )


def _count(outcomes: str) -> PassCount | None:
    """Return how many outcomes passed; None if there are none."""
    return PassCount(passed=outcomes.count("1"), trials=len(outcomes)) if outcomes else None


def _compare(trial: Trial, zero: Trial) -> StrengthResult:
    """Return the result at one strength, compared with the trial at strength 0."""
    count = min(len(trial.outcomes), len(zero.outcomes))
    flips = list(zip(zero.outcomes[:count], trial.outcomes[:count], strict=True))
    gained, lost = flips.count(("0", "1")), flips.count(("1", "0"))
    passed, ratio = trial.outcomes.count("1"), trial.perplexity / zero.perplexity
    low, high = interval(passed, len(trial.outcomes))
    p = min(1.0, 2 * mcnemar(max(gained, lost), min(gained, lost)))
    return StrengthResult(
        strength=trial.strength,
        passed=passed,
        trials=len(trial.outcomes),
        low=round(low, 4),
        high=round(high, 4),
        gained=gained,
        lost=lost,
        p=float(f"{p:.3g}"),
        perplexity=round(trial.perplexity, 4),
        broken=not ratio <= BROKEN,  # written so that NaN counts as broken
    )


def _sides(rows: Sequence[StrengthResult]) -> list[list[StrengthResult]]:
    """Return the rows in groups, first negative strengths, then positive ones, without empty groups."""
    sides = [[row for row in rows if row.strength < 0], [row for row in rows if row.strength > 0]]
    return [side for side in sides if side]


def _sign(row: StrengthResult) -> int:
    """Return 1 if the pass rate grows as the strength grows, else -1."""
    return 1 if (row.gained > row.lost) == (row.strength > 0) else -1


def _describe(row: StrengthResult, rows: Sequence[StrengthResult]) -> str:
    zero = next(other for other in rows if not other.strength)
    return (
        f"strength {row.strength:+g}: {row.passed} of {row.trials} instead of {zero.passed} (p {row.p:.2g})"
    )


def _no_effect(tested: Sequence[StrengthResult], rows: Sequence[StrengthResult]) -> str:
    if not tested:
        return "every strength broke the model: try smaller ones"
    surest = min(tested, key=lambda row: row.p)
    return f"no strength changed the pass rate beyond chance: {_describe(surest, rows)}"


def _slope(rows: Sequence[StrengthResult]) -> float:
    """Return the slope of the pass rate over the strength, by least squares; 0 for a single strength."""
    points = [(row.strength, row.passed / row.trials) for row in rows if row.trials]
    count = max(1, len(points))
    mean_x, mean_y = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    squares = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / squares if squares else 0.0
