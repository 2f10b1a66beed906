"""Stochastic rounding: unbiased, and deterministic."""

import pytest
import torch

from agents.trainer.apollo import rounding
from agents.trainer.apollo.rounding import counter_bits, derive_seed, stochastic_round

CPU = torch.device("cpu")


@pytest.mark.parametrize("sign", [1, -1])
def test_the_chance_of_rounding_up_is_the_distance_from_the_lower_neighbour(sign: int) -> None:
    unit = 2.0**-7  # the distance of bfloat16 numbers from 1 on
    values = torch.full((100_000,), sign * (1 + 0.3 * unit))
    rounded = stochastic_round(values, key=1).to(torch.float32)
    assert set(rounded.tolist()) == {sign * 1.0, sign * (1 + unit)}
    assert float((rounded.abs() > 1).float().mean()) == pytest.approx(0.3, abs=0.01)


def test_values_that_bfloat16_can_hold_are_unchanged() -> None:
    values = torch.randn(1000).to(torch.bfloat16)
    special = torch.tensor([0.0, -0.0, float("inf"), -float("inf")], dtype=torch.bfloat16)
    for exact in (values, special):
        actual = stochastic_round(exact.to(torch.float32), key=5)
        assert torch.equal(actual.view(torch.int16), exact.view(torch.int16))
    assert bool(stochastic_round(torch.tensor([float("nan")]), key=5).isnan().all())


def test_small_steps_survive_where_rounding_to_nearest_loses_them() -> None:
    weight = torch.ones(4000, dtype=torch.bfloat16)
    step = 0.03 * 2.0**-7
    for t in range(100):
        weight = stochastic_round(weight.to(torch.float32) + step, key=t)
    assert float(weight.to(torch.float32).mean()) == pytest.approx(1 + 100 * step, rel=6e-4)
    assert float((torch.ones(1, dtype=torch.bfloat16).to(torch.float32) + step).to(torch.bfloat16)) == 1


def test_the_result_depends_on_the_key_and_the_index_and_not_on_the_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = torch.randn(33, 31)
    once = stochastic_round(values, key=1 << 40)
    assert torch.equal(once, stochastic_round(values, key=1 << 40))
    assert not torch.equal(once, stochastic_round(values, key=1 << 41))
    monkeypatch.setattr(rounding, "CHUNK", 100)
    assert torch.equal(once, stochastic_round(values, key=1 << 40))


def test_the_bits_are_those_of_a_plain_loop() -> None:
    def mix(x: int) -> int:
        x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
        x = (x ^ (x >> 15)) * 0x846CA68B % 2**32
        return x ^ (x >> 16)

    key, start = 0x1234_5678_9ABC_DEF0, 2**32 - 3
    first, second = derive_seed(key, "first") % 2**32, derive_seed(key, "second") % 2**32
    expected = [mix(mix((i % 2**32) ^ first) ^ (i >> 32) ^ second) for i in range(start, start + 9)]
    assert [bits % 2**32 for bits in counter_bits(key, start, 9, CPU).tolist()] == expected


def test_each_bit_is_set_half_the_time() -> None:
    bits = counter_bits(7, 0, 50_000, CPU)
    for place in range(32):
        assert float(((bits >> place) & 1).float().mean()) == pytest.approx(0.5, abs=0.012)


def test_along_200_recorded_gradients_stochastic_rounding_follows_float32() -> None:
    from bench.rounding import compared, recorded

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 256))
    inputs, wanted = torch.randn(64, 256), torch.randn(64, 256)
    start = [weight.detach().to(torch.bfloat16) for weight in model.parameters()]
    losses = ((model(inputs) - wanted).square().mean() for _ in range(200))
    actual = compared(start, recorded(model, losses, 1e-5, 200), 1e-5)
    assert actual["stochastic"][0] == pytest.approx(1, abs=0.02)
    assert actual["nearest"][0] < 0.3
    assert actual["master weights"] == pytest.approx((1, 0), abs=0.01)
    assert actual["stochastic"][1] > 10 * actual["master weights"][1]  # what the master weights are for
