"""The temperature of dreams, which follows the failure rate of each behaviour.

A behaviour that fails often gets broad dreams at a high temperature. A behaviour that rarely fails gets
dreams close to its hardest cases at a low temperature.

Invariant: pure; a failure rate lies between 0 and 1, both excluded. A temperature lies between T_MIN and
T_MAX and changes by at most SLEW a night.
"""

from dataclasses import dataclass, replace

DISCOUNT = 0.7
"""Factor on the counts of earlier nights at each new night, because the model's weights have changed
since."""
PRIOR = 1.0
"""Number of failures, and also of passes, that the Beta prior adds to the counts. With 1 the prior is
uniform."""
T_MIN = 0.7
"""Lowest temperature."""
T_MAX = 1.15
"""Highest temperature. Above it the requests that the embedded model writes make no sense."""
FOREIGN_MIN, FOREIGN_MAX = 0.7, 1.0
"""Lowest and highest temperature for a model that was not trained on our prompts. Beyond them it repeats its
seeds, or loses the subject."""
FEWEST_SEEDS, MOST_SEEDS = 3, 6
"""Number of requests that a prompt shows, for a behaviour that never fails and for one that always does."""
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
        """The estimated failure rate: the mean of the Beta posterior."""
        return (PRIOR + self.failed) / (2 * PRIOR + self.failed + self.passed)


def observe(rate: FailureRate, *, failed: int, passed: int) -> FailureRate:
    """Return the failure rate and the temperature after another night's attempts.

    The earlier counts are multiplied by DISCOUNT, and the new counts are added. The temperature then moves,
    by at most SLEW, towards T_MIN + (T_MAX - T_MIN) * f, where f is the new failure rate.

    Args:
        rate: The failure rate before the night.
        failed: Number of the night's attempts that failed.
        passed: Number of the night's attempts that passed.
    """
    counted = FailureRate(
        failed=DISCOUNT * rate.failed + failed,
        passed=DISCOUNT * rate.passed + passed,
        temperature=rate.temperature,
    )
    target = T_MIN + (T_MAX - T_MIN) * counted.mean
    step = max(-SLEW, min(SLEW, target - rate.temperature))
    return replace(counted, temperature=round(rate.temperature + step, 4))


def foreign(temperature: float) -> float:
    """Return the temperature for a model that was not trained on our prompts.

    `temperature`, which follows the failure rate from T_MIN to T_MAX, is mapped to FOREIGN_MIN to
    FOREIGN_MAX.
    """
    share = (temperature - T_MIN) / (T_MAX - T_MIN)
    return round(FOREIGN_MIN + (FOREIGN_MAX - FOREIGN_MIN) * min(1.0, max(0.0, share)), 4)


def breadth(failure_rate: float) -> int:
    """Return how many requests a prompt shows: more of them if the behaviour fails often."""
    return round(FEWEST_SEEDS + (MOST_SEEDS - FEWEST_SEEDS) * failure_rate)


def shares(rates: dict[str, FailureRate], total: int, *, floor: float = 0.15) -> dict[str, int]:
    """Return the number of dreams for each behaviour, by name.

    The `total` is divided in proportion to `floor` plus the failure rate, so that a behaviour that never
    fails gets some dreams too.
    """
    weights = {name: floor + rate.mean for name, rate in sorted(rates.items())}
    return {name: round(total * weight / sum(weights.values())) for name, weight in weights.items()}
