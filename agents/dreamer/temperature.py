"""The temperature of dreams: a closed loop, one for each behaviour.

What fails often is dreamt broadly and hot, what holds is dreamt close to its hardest cases and cool.
Invariant: pure; a failure rate in (0, 1), a temperature within its bounds, moved at most SLEW a night.
"""

from dataclasses import dataclass

DISCOUNT = 0.7
"""What the evidence of earlier nights still counts, a night later: the weights have changed since."""
PRIOR = 1.0
"""Failures and passes that the Beta prior stands for (uniform: 1 and 1)."""
T_MIN = 0.7
T_MAX = 1.15
"""Bounds; above the upper one the embedded model's requests fall apart."""
SLEW = 0.25
"""Largest move of the temperature between two nights."""


@dataclass(frozen=True, kw_only=True)
class FailureRate:
    """The discounted counts behind a behaviour's failure rate, and where its temperature stands."""

    failed: float = 0.0
    passed: float = 0.0
    temperature: float = T_MAX

    @property
    def mean(self) -> float:
        """Mean of the Beta posterior."""
        return (PRIOR + self.failed) / (2 * PRIOR + self.failed + self.passed)


def observe(rate: FailureRate, *, failed: int, passed: int) -> FailureRate:
    """The rate after another night's attempts: discounted, counted, and the temperature moved towards
    T = T_MIN + (T_MAX - T_MIN) f."""
    counted = FailureRate(
        failed=DISCOUNT * rate.failed + failed,
        passed=DISCOUNT * rate.passed + passed,
        temperature=rate.temperature,
    )
    target = T_MIN + (T_MAX - T_MIN) * counted.mean
    step = max(-SLEW, min(SLEW, target - rate.temperature))
    return FailureRate(
        failed=counted.failed, passed=counted.passed, temperature=round(rate.temperature + step, 4)
    )


def shares(rates: dict[str, FailureRate], total: int, *, floor: float = 0.15) -> dict[str, int]:
    """How many of `total` dreams each behaviour gets: in proportion to its failure rate, none forgotten."""
    weights = {name: floor + rate.mean for name, rate in sorted(rates.items())}
    return {name: round(total * weight / sum(weights.values())) for name, weight in weights.items()}
