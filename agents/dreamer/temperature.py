"""The temperature of dreams: one closed loop for each behaviour.

A behaviour that fails often gets broad dreams at a high temperature. One that holds gets dreams close to its
hardest cases at a low temperature.

Invariant: pure; a failure rate lies in (0, 1), and a temperature within its bounds. It moves at most SLEW a
night.
"""

from dataclasses import dataclass, replace

DISCOUNT = 0.7
"""Weight of the earlier nights' evidence, one night later: the weights have changed since."""
PRIOR = 1.0
"""Failures, and passes, that the Beta prior counts as (1 and 1: uniform)."""
T_MIN = 0.7
T_MAX = 1.15
"""Bounds of the temperature. Above the upper one the embedded model's requests fall apart."""
SLEW = 0.25
"""Largest change of the temperature in one night."""


@dataclass(frozen=True, kw_only=True)
class FailureRate:
    """The discounted counts behind a behaviour's failure rate, and its current temperature."""

    failed: float = 0.0
    passed: float = 0.0
    temperature: float = T_MAX

    @property
    def mean(self) -> float:
        """The mean of the Beta posterior."""
        return (PRIOR + self.failed) / (2 * PRIOR + self.failed + self.passed)


def observe(rate: FailureRate, *, failed: int, passed: int) -> FailureRate:
    """Return the counts and the temperature after another night's attempts.

    The earlier counts are discounted and the new ones added; the temperature then moves towards
    T = T_MIN + (T_MAX - T_MIN) f, where f is the new failure rate.
    """
    counted = FailureRate(
        failed=DISCOUNT * rate.failed + failed,
        passed=DISCOUNT * rate.passed + passed,
        temperature=rate.temperature,
    )
    target = T_MIN + (T_MAX - T_MIN) * counted.mean
    step = max(-SLEW, min(SLEW, target - rate.temperature))
    return replace(counted, temperature=round(rate.temperature + step, 4))


def shares(rates: dict[str, FailureRate], total: int, *, floor: float = 0.15) -> dict[str, int]:
    """Divide `total` dreams among the behaviours, in proportion to floor + failure rate."""
    weights = {name: floor + rate.mean for name, rate in sorted(rates.items())}
    return {name: round(total * weight / sum(weights.values())) for name, weight in weights.items()}
