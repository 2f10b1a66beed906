"""Figures of pass rates that are looked at once: an interval, and a test of one comparison.

Invariant: pure. A night's verdict, which looks again and again, uses `loop.verdict.evidence` instead.
"""

from math import comb, sqrt


def mcnemar(gained: int, lost: int) -> float:
    """Return the exact one-sided p-value of the hypothesis that the pass rate did not rise (McNemar 1947).

    The value is P(X >= gained) for X ~ Bin(gained + lost, 1/2).

    Args:
        gained: Number of scenarios that failed before and passed after.
        lost: Number of scenarios that passed before and failed after.
    """
    flips = gained + lost
    return float(sum(comb(flips, k) for k in range(gained, flips + 1)) / 2**flips)


def interval(passed: float, trials: int) -> tuple[float, float]:
    """Return the lower and upper end of a pass rate's 95 % confidence interval (Wilson 1927).

    Args:
        passed: Number of scenarios that passed; of scenarios that were answered several times, the sum of
            their shares.
        trials: Number of scenarios.
    """
    if not trials:
        return 0.0, 1.0
    z, p = 1.96, passed / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return max(0.0, centre - half), min(1.0, centre + half)
