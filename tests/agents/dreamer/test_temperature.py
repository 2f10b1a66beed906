"""The temperature of dreams: a bounded closed loop."""

import random

import pytest

from agents.dreamer.temperature import DISCOUNT, SLEW, T_MAX, T_MIN, FailureRate, observe, shares


def nights(rate: FailureRate, *, failed: int, passed: int, count: int) -> list[FailureRate]:
    """Return the rates after the same attempts night after night."""
    rates = []
    for _ in range(count):
        rate = observe(rate, failed=failed, passed=passed)
        rates.append(rate)
    return rates


def test_a_new_behaviour_has_the_prior_failure_rate() -> None:
    assert FailureRate().mean == 0.5 and FailureRate().temperature == T_MAX


def test_the_failure_rate_is_the_mean_of_the_discounted_posterior() -> None:
    """By hand: (1 + 30) / (2 + 40) after one night, (1 + 0.7 * 30) / (2 + 0.7 * 40 + 40) after a good one."""
    first = observe(FailureRate(), failed=30, passed=10)
    assert first.mean == pytest.approx(31 / 42)
    second = observe(first, failed=0, passed=40)
    assert (second.failed, second.passed) == pytest.approx((DISCOUNT * 30, DISCOUNT * 10 + 40))
    assert second.mean == pytest.approx(22 / 70)


def test_the_temperature_falls_while_a_behaviour_holds_and_rises_when_it_fails_again() -> None:
    holding = nights(FailureRate(), failed=0, passed=100, count=6)
    falling = [rate.temperature for rate in holding]
    assert falling == sorted(falling, reverse=True) and falling[-1] == pytest.approx(T_MIN, abs=0.01)
    failing = nights(holding[-1], failed=100, passed=0, count=6)
    rising = [rate.temperature for rate in failing]
    assert rising == sorted(rising) and rising[-1] > T_MAX - 0.05


def test_the_temperature_converges_to_the_value_of_the_failure_rate() -> None:
    settled = nights(FailureRate(), failed=40, passed=160, count=30)[-1]
    assert settled.mean == pytest.approx(0.2, abs=0.01)
    assert settled.temperature == pytest.approx(T_MIN + (T_MAX - T_MIN) * settled.mean, abs=1e-4)


def test_a_night_moves_the_temperature_by_the_slew_limit_at_most() -> None:
    assert observe(FailureRate(), failed=0, passed=10_000).temperature == pytest.approx(T_MAX - SLEW)
    cold = FailureRate(temperature=T_MIN)
    assert observe(cold, failed=10_000, passed=0).temperature == pytest.approx(T_MIN + SLEW)


def test_rate_and_temperature_always_stay_within_their_bounds() -> None:
    rng, rate = random.Random(3), FailureRate()
    for _ in range(3000):
        before = rate.temperature
        rate = observe(rate, failed=rng.choice((0, 1, 50, 10**6)), passed=rng.choice((0, 1, 50, 10**6)))
        assert 0 < rate.mean < 1 and T_MIN <= rate.temperature <= T_MAX
        assert abs(rate.temperature - before) <= SLEW + 1e-4


def test_a_night_without_attempts_discounts_the_evidence_and_moves_to_the_middle() -> None:
    known = FailureRate(failed=0.0, passed=100.0, temperature=T_MIN)
    assert FailureRate().mean > observe(known, failed=0, passed=0).mean > known.mean


def test_a_behaviour_that_fails_more_is_dreamt_more_and_none_is_left_out() -> None:
    rates = {
        "never": FailureRate(failed=0, passed=1000),
        "often": FailureRate(failed=900, passed=100),
        "always": FailureRate(failed=1000, passed=0),
    }
    assert shares(rates, 240) == {"never": 15, "often": 107, "always": 117}  # 0.15 + f, each, of their sum


def test_equal_rates_get_equal_shares_in_any_order() -> None:
    rates = {name: FailureRate() for name in "cab"}
    assert shares(rates, 90) == {"a": 30, "b": 30, "c": 30}
    assert shares({"a": FailureRate()}, 90) == {"a": 90} and shares({}, 90) == {}
