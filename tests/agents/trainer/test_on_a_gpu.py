"""The trainer's arithmetic on a GPU against that on the CPU; skipped without a CUDA device."""

from typing import Any

import pytest
import torch

from agents.trainer.apollo.optimizer import Apollo
from agents.trainer.apollo.rounding import stochastic_round
from agents.trainer.scoring import prefix_scoring

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("projection", ["gaussian", "sketch"])
def test_steps_on_a_gpu_are_those_on_the_cpu(projection: Any) -> None:
    def trained(device: str) -> list[torch.Tensor]:
        draw = torch.Generator().manual_seed(0)
        shapes = [(96, 200), (200, 96), (96, 200), (64,)]
        weights = [torch.nn.Parameter(torch.randn(shape, generator=draw).to(device)) for shape in shapes]
        optimizer = Apollo(weights, 1e-2, rank=16, proj_refresh=2, projection=projection)
        for _ in range(5):
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=draw).to(device)
            optimizer.step()
        return [weight.detach().cpu() for weight in weights]

    for ours, theirs in zip(trained("cuda"), trained("cpu"), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_rounding_draws_the_same_bits_on_a_gpu() -> None:
    values = torch.randn(1000, 1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(stochastic_round(values.cuda(), key=9).cpu(), stochastic_round(values, key=9))


def test_a_step_does_not_wait_for_the_device() -> None:
    weights = [
        torch.nn.Parameter(torch.randn(96, 200, device="cuda", dtype=torch.bfloat16)) for _ in range(3)
    ]
    optimizer = Apollo(weights, 1e-3)
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizer.step()  # the first one draws its projection, on the CPU
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_frozen_pass_on_a_gpu_gives_the_log_probabilities_of_the_cpu(tiny: Any) -> None:
    contexts, continuations = [[1, 2, 3], [4, 5]], [[[6, 7], [8]], [[9], [10, 11, 12]]]
    expected = prefix_scoring.scores(tiny, contexts, continuations, train=False)
    try:
        actual = prefix_scoring.scores(tiny.cuda(), contexts, continuations, train=False)
    finally:
        tiny.cpu()
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.allclose(ours.total.cpu(), theirs.total, atol=1e-3)


def test_a_second_process_writes_a_weight_over_cuda_ipc() -> None:
    from bench.gpu import ipc_roundtrip

    assert ipc_roundtrip()["seen"]
