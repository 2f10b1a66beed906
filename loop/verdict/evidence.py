"""E-values: evidence about a pass rate that may be looked at after every batch of scenarios.

A scenario's drop D is the share of its answers that passed before the update minus the share after it, in
[-1, 1]. An E-value is a bettor's capital that starts at 1 and on average does not grow if a hypothesis is
true. So the probability that it ever reaches 1 / alpha is alpha at most, however often one looks (Ville 1939;
Ramdas et al. 2023, "Game-theoretic statistics and safe anytime-valid inference", theorem 1). Each bet is a
share of the capital, lambda. The capital is averaged over a grid of lambdas, so that none has to be chosen
(the method of mixtures: Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by
betting", section 4).

Invariant: pure. The order of the drops never matters, and a greater drop never makes `improved` or `held`
greater.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEVEL = 0.05
"""The largest probability of each of the verdict's errors."""
ENOUGH = 1 / LEVEL
"""The E-value at which a hypothesis is rejected at LEVEL."""
NOISE = 0.02
"""The probability with which a guard's scenario is assumed to turn to a failure by chance alone, and the same
for a pass, where a margin follows from the number of scenarios."""
MOST_COUNTED = 2000
"""Largest number of scenarios for which a margin is computed: more of them leave it as it is."""
_SHARES = (np.arange(64) + 0.5) / 64
"""The grid of bets, as shares of the largest bet."""
_EARLY = np.sqrt(_SHARES)
"""A grid whose bets are denser near the largest one: a guard that nothing happens to is decided sooner (after
78 scenarios instead of 88 at a margin of 5 points, measured by simulation)."""


def improved(drops: Sequence[float]) -> float:
    """Return the E-value against "the pass rate did not rise", H0: E[D] >= 0.

    With b gained and c lost scenarios it is the mean over lambda in (0, 1) of (1 + lambda)^b (1 - lambda)^c.
    With theta = (1 + lambda) / 2 that is the integral over theta in [1/2, 1] of 2 (2 theta)^b
    (2 (1 - theta))^c, the mixture for the sign test.
    """
    return _capital(*_counted(drops, lambda drop: -drop), 1.0, _SHARES)


def fell(drops: Sequence[float]) -> float:
    """Return the E-value against "the pass rate did not fall", H0: E[D] <= 0."""
    return improved([-drop for drop in drops])


def held(drops: Sequence[float], margin: float) -> float:
    """Return the E-value against "the pass rate fell by the margin or more", H0: E[D] >= margin.

    It is the mean over lambda in (0, 1 / (1 - margin)) of the product of 1 + lambda (margin - D).
    """
    margin = min(margin, 0.999)
    return _capital(*_counted(drops, lambda drop: margin - drop), 1 / (1 - margin), _EARLY)


def worse(drops: Sequence[float], margin: float) -> float:
    """Return the E-value against "the pass rate fell by at most the margin", H0: E[D] <= margin.

    It is the mean over lambda in (0, 1 / (1 + margin)) of the product of 1 + lambda (D - margin).
    """
    return _capital(*_counted(drops, lambda drop: drop - margin), 1 / (1 + margin), _SHARES)


def futile(drops: Sequence[float], gain: float) -> float:
    """Return the E-value against "the pass rate rose by the gain or more", H0: E[-D] >= gain."""
    return held([-drop for drop in drops], gain)


def combined(values: Sequence[float]) -> float:
    """Return the E-value against "no target improved": a mean of E-values is an E-value (Vovk, Wang 2021)."""
    return sum(values) / len(values) if values else 0.0


def improved_among(values: Mapping[str, float]) -> list[str]:
    """Return the targets that have improved, with a false discovery rate of at most LEVEL.

    This is the e-BH procedure (Wang and Ramdas 2022, "False discovery rate control with e-values"): of K
    E-values in descending order, the first k are taken for the largest k with E_k >= K / (LEVEL k). Its level
    holds however the E-values depend on each other.

    Args:
        values: Each target's E-value from `improved`.
    """
    order = sorted(values, key=lambda name: (-values[name], name))
    ranks = [rank for rank, name in enumerate(order, 1) if values[name] * rank >= len(order) * ENOUGH]
    return sorted(order[: max(ranks, default=0)])


def largest_drop(drops: Sequence[float]) -> float:
    """Return an upper bound of the drop, with confidence 1 - LEVEL at any time: the smallest margin held."""
    return _least(lambda margin: held(drops, margin) >= ENOUGH)


def least_scenarios(margin: float) -> int:
    """Return the smallest number of scenarios with which a guard can be held, if none of them changes."""
    count = 1
    while count < 100_000 and held([0.0] * count, margin) < ENOUGH:
        count += 1
    return count


@lru_cache(maxsize=256)
def shown_by(scenarios: int, guards: int, noise: float = NOISE) -> float:
    """Return the smallest margin that this many scenarios can show for guards that did not change.

    At this margin all guards are held with probability 1 - LEVEL at least (Bonferroni), after all scenarios.
    It follows from numbers that are known before anything is measured.

    Args:
        scenarios: Number of scenarios that can be measured.
        guards: Number of the night's guards.
        noise: See `power`.
    """
    wanted = 1 - LEVEL / max(1, guards)
    return _least(lambda margin: power(scenarios, margin, noise) >= wanted)


def power(scenarios: int, margin: float, noise: float = NOISE) -> float:
    """Return the probability that a guard that did not change is held after this many scenarios.

    Args:
        scenarios: Number of scenarios; a number over MOST_COUNTED counts as MOST_COUNTED.
        margin: The margin.
        noise: Probability that a scenario turns to a failure by chance, and the same for a pass.
    """
    count, margin = min(scenarios, MOST_COUNTED), min(margin, 0.999)
    most = min(count, int(count * noise + 8 * (count * noise) ** 0.5) + 8)
    lost, gained = np.arange(most + 1)[:, None], np.arange(most + 1)[None, :]
    same = count - lost - gained
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    ways = logs[count] - logs[lost] - logs[gained] - logs[np.maximum(same, 0)]
    chance = np.exp(ways + (lost + gained) * np.log(noise) + same * np.log1p(-2 * noise)) * (same >= 0)
    bets = _EARLY / (1 - margin)
    turns = (np.log1p(bets * gain)[:, None, None] for gain in (margin - 1, margin + 1, margin))
    capital = sum(count * log for count, log in zip((lost, gained, same), turns, strict=True))
    held_ = np.logaddexp.reduce(capital, axis=0) - np.log(len(bets)) >= np.log(ENOUGH)
    return float((chance * held_).sum())


def _counted(drops: Sequence[float], gain: Callable[[float], float]) -> tuple[Array, Array]:
    """Return what one unit of bet gains for each different drop, and how often it occurs, `(n,)` each."""
    counts = _counts(tuple(drops))
    return np.array([gain(drop) for drop, _ in counts]), np.array([float(count) for _, count in counts])


@lru_cache(maxsize=256)
def _counts(drops: tuple[float, ...]) -> list[tuple[float, int]]:
    """Return how often each drop occurs, in ascending order: the order of scenarios changes nothing."""
    return sorted(Counter(drops).items())


def _capital(gains: Array, counts: Array, largest: float, shares: Array) -> float:
    """Return the capital, averaged over the grid of bets.

    Args:
        gains: What one unit of bet gains with each different drop, `(n,)`.
        counts: How often each drop occurs, `(n,)`.
        largest: The largest bet: with it the worst possible scenario takes the whole capital.
        shares: The bets as shares of the largest one, `(n_bets,)`.
    """
    logs = np.log1p(largest * shares[:, None] * gains[None, :]) @ counts
    highest = logs.max()  # subtracted first, so that no product overflows or vanishes
    return float(np.exp(min(700.0, highest)) * np.exp(logs - highest).mean())


def _least(shows: Callable[[float], bool]) -> float:
    """Return the smallest margin in [0, 1], to 0.0001, for which this is true; 1 if it is for none."""
    low, high = 0.0, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if shows(middle) else (middle, high)
    return high
