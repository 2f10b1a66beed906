"""The compiled passes against those in torch: equal numbers for all shapes, types and thread counts."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from agents.trainer.apollo import kernel
from agents.trainer.apollo.optimizer import Apollo

SHAPES = [(5, 300), (300, 5), (40, 40), (129, 257), (300, 513), (515, 66), (1, 7), (7, 1), (64, 1000)]
built = pytest.mark.skipif(
    not kernel.is_built(), reason="no compiler was there when the package was installed"
)


@pytest.fixture
def threads() -> Iterator[Any]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def trained(
    compiled: bool, dtype: torch.dtype, steps: int = 6, **settings: Any
) -> tuple[list[torch.Tensor], Apollo]:
    """Return the weights of every shape after some steps, and the optimizer."""
    draw = torch.Generator().manual_seed(3)
    weights = [torch.nn.Parameter((0.1 * torch.randn(shape, generator=draw)).to(dtype)) for shape in SHAPES]
    optimizer = Apollo(weights, 1e-3, weight_decay=0.1, proj_refresh=4, compiled=compiled, **settings)
    for _ in range(steps):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=draw).to(dtype)
        optimizer.step()
    return [weight.detach() for weight in weights], optimizer


def test_the_kernel_is_built_where_there_is_a_compiler() -> None:
    assert kernel.is_built() or shutil.which("cc") is None


@built
@pytest.mark.parametrize("projection", ["gaussian", "sketch"])
@pytest.mark.parametrize("rank", [1, 3, 16, 64])
def test_the_compiled_passes_give_the_numbers_of_those_in_torch(rank: int, projection: Any) -> None:
    ours, mine = trained(True, torch.float32, rank=rank, projection=projection)
    plain, theirs = trained(False, torch.float32, rank=rank, projection=projection)
    names = [str(shape) for shape in SHAPES]
    for actual, expected in zip(ours, plain, strict=True):
        assert torch.allclose(actual, expected, rtol=1e-6, atol=1e-6)
    other = theirs.export_state(names)
    for name, tensor in mine.export_state(names).items():
        assert torch.allclose(
            tensor.double(), other[name].double(), rtol=2e-6, atol=1e-6 * float(tensor.double().abs().max())
        ), name
    assert mine.limiter_divisor == pytest.approx(theirs.limiter_divisor, rel=2e-6)
    assert float(mine.propose()) == pytest.approx(float(theirs.propose()), rel=2e-6)


@built
@pytest.mark.parametrize("master", [False, True])
def test_bfloat16_weights_are_rounded_by_the_same_bits(master: bool) -> None:
    ours, _ = trained(True, torch.bfloat16, master_weights=master)
    plain, _ = trained(False, torch.bfloat16, master_weights=master)
    for actual, expected in zip(ours, plain, strict=True):
        same = (actual == expected).float().mean()
        # A value that float32 rounds otherwise may fall on the other side of its random number.
        assert float(same) > 0.999 and torch.allclose(actual.float(), expected.float(), atol=2e-3)


@built
def test_one_step_is_the_same_in_one_pass_and_in_two() -> None:
    def after(split: bool) -> list[torch.Tensor]:
        weights, optimizer = trained(True, torch.float32)
        for weight in optimizer.parameters:
            weight.grad = torch.ones_like(weight)
        if split:
            optimizer.propose()
            optimizer.apply()
        else:
            optimizer.step()
        return weights

    assert all(torch.equal(a, b) for a, b in zip(after(True), after(False), strict=True))


@built
@pytest.mark.parametrize("large", [kernel.LARGE, 1])
def test_no_result_depends_on_the_number_of_threads(
    large: int, threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "LARGE", large)  # 1: every matrix is shared out among the threads
    results = []
    for count in (1, 2, 5):
        threads(count)
        results.append(trained(True, torch.float32)[0])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@built
def test_a_gradient_that_is_not_finite_is_reported_and_not_stored() -> None:
    weight = torch.nn.Parameter(torch.ones(20, 30))
    optimizer = Apollo([weight], 0.1, rank=4)
    weight.grad = torch.ones(20, 30)
    optimizer.step()
    norm, before = float(optimizer.state[weight]["norm"]), weight.detach().clone()
    weight.grad[3, 4] = float("nan")
    assert not torch.isfinite(optimizer.propose())
    assert torch.equal(weight, before) and float(optimizer.state[weight]["norm"]) == norm


@built
def test_tensors_that_are_not_contiguous_are_left_to_torch() -> None:
    torch.manual_seed(0)
    whole = torch.randn(20, 60)
    cut, plain = torch.nn.Parameter(whole[:, ::2]), torch.nn.Parameter(whole[:, ::2].clone())
    outer = [torch.nn.Parameter(torch.zeros(0, 4)), cut, plain]
    optimizer = Apollo(outer, 0.1, rank=4)
    for weight in outer:
        weight.grad = torch.ones(weight.shape)
    optimizer.step()
    assert torch.allclose(cut, plain, atol=1e-6) and torch.equal(whole[:, ::2], cut)
