"""Apollo behaves as torch and its users expect of an optimizer."""

import copy
import weakref
from typing import Any

import pytest
import torch

from agents.trainer.apollo.optimizer import Apollo
from corpus.errors import TrainerFault

SHAPES = [(6, 9), (9, 6), (4,), (2, 3, 4)]


def new_optimizer(dtype: torch.dtype = torch.float32, **settings: Any) -> Apollo:
    torch.manual_seed(1)
    return Apollo(
        [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in SHAPES], 0.01, rank=3, **settings
    )


def step(optimizer: Apollo, number: int) -> None:
    draw = torch.Generator().manual_seed(number)
    for parameter in optimizer.parameters:
        parameter.grad = torch.randn(parameter.shape, generator=draw).to(parameter.dtype)
    optimizer.step()


def weights(optimizer: Apollo) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in optimizer.parameters]


@pytest.mark.parametrize(
    "dtype, master", [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)]
)
def test_a_state_dict_continues_bit_for_bit(dtype: torch.dtype, master: bool) -> None:
    first, second = (
        new_optimizer(dtype, seed=3, proj_refresh=2, master_weights=master),
        new_optimizer(dtype, seed=8),
    )
    for number in range(3):
        step(first, number)
    with torch.no_grad():
        for ours, theirs in zip(second.parameters, first.parameters, strict=True):
            ours.copy_(theirs)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert all(second.state[p]["moment1"].dtype == torch.float32 for p in second.parameters)
    for number in range(3, 6):
        step(first, number)
        step(second, number)
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))


def test_a_copy_continues_as_the_original_does() -> None:
    first = new_optimizer(proj_refresh=2)
    step(first, 0)
    second = copy.deepcopy(first)
    step(first, 1)
    step(second, 1)
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))


def test_a_scheduler_of_torch_sets_the_rate() -> None:
    optimizer = new_optimizer()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.0 if epoch else 1.0)
    step(optimizer, 0)
    schedule.step()
    before = weights(optimizer)
    step(optimizer, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(optimizer), strict=True))


def test_parameter_groups_have_their_own_settings() -> None:
    one, two = (torch.nn.Parameter(torch.ones(6, 9)) for _ in range(2))
    optimizer = Apollo([{"params": [one], "rank": 2, "projection": "sketch"}], 0.01)
    optimizer.add_param_group({"params": [two], "lr": 0.0})
    for weight in (one, two):
        weight.grad = torch.ones(6, 9)
    optimizer.step()
    assert optimizer.projection(one).shape == (2, 6) and optimizer.projection(two).shape == (6, 6)
    assert not torch.equal(one, torch.ones(6, 9)) and torch.equal(two, torch.ones(6, 9))


def test_a_closure_is_called_with_gradients_and_its_loss_returned() -> None:
    weight = torch.nn.Parameter(torch.ones(3, 4))
    optimizer = Apollo([weight], 0.1)

    def closure() -> float:
        loss = (weight**2).sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == 12.0
    assert float(weight.detach().sum()) < 12


def test_invalid_settings_are_refused() -> None:
    for wrong in (
        {"rank": 0},
        {"lr": -1.0},
        {"proj_refresh": 0},
        {"norm_growth_limit": 0.0},
        {"projection": "svd"},
    ):
        with pytest.raises(TrainerFault):
            Apollo([torch.nn.Parameter(torch.ones(2, 2))], **{"lr": 0.1, **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("projection", ["gaussian", "sketch"])
def test_a_sketch_or_a_gaussian_keeps_lengths_on_average(projection: Any) -> None:
    vector = torch.randn(200, generator=torch.Generator().manual_seed(0))
    weight = torch.nn.Parameter(torch.zeros(200, 300))
    lengths = []
    for seed in range(200):
        matrix = Apollo([weight], 0.1, rank=16, projection=projection, seed=seed).projection(weight)
        lengths.append(float((matrix @ vector).square().sum()))
    assert sum(lengths) / 200 == pytest.approx(float(vector.square().sum()), rel=0.08)


def test_the_sketch_puts_element_k_into_bucket_k_mod_r() -> None:
    weight = torch.nn.Parameter(torch.zeros(10, 30))
    matrix = Apollo([weight], 0.1, rank=4, projection="sketch").projection(weight)
    rows = matrix.abs().nonzero()
    assert sorted(rows.tolist()) == sorted([k % 4, k] for k in range(10))
    assert set(matrix[matrix != 0].tolist()) == {1.0, -1.0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("settings", [{}, {"projection": "sketch"}, {"rank": 1}, {"master_weights": True}])
def test_a_step_reads_no_number_back_from_the_device(dtype: torch.dtype, settings: dict[str, Any]) -> None:
    # Tensors on the meta device have no numbers: whatever would wait for a GPU fails here.
    weights = [
        torch.nn.Parameter(torch.zeros(shape, dtype=dtype, device="meta")) for shape in [*SHAPES, (6, 9)]
    ]
    optimizer = Apollo(weights, 0.01, **{"rank": 3, "weight_decay": 0.1, **settings})  # type: ignore[arg-type]
    for _ in range(3):
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        optimizer.step()
        optimizer.propose()
        optimizer.apply()
    with pytest.raises(RuntimeError):
        float(weights[0].sum())


def test_the_state_is_a_fraction_of_adamws_and_no_projection_is_stored() -> None:
    weight = torch.nn.Parameter(torch.zeros(1024, 4096))
    optimizer = Apollo([weight], 0.1, rank=64)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    stored = sum(
        v.numel() * v.element_size() for v in optimizer.state[weight].values() if isinstance(v, torch.Tensor)
    )
    assert stored == optimizer.state_bytes() + 4 and stored <= 0.0626 * 2 * 4 * weight.numel()


@pytest.mark.parametrize("compiled", [True, False])
def test_an_applied_step_holds_no_gradient(compiled: bool) -> None:
    weights = [torch.nn.Parameter(torch.ones(shape)) for shape in SHAPES]
    optimizer = Apollo(weights, 0.1, compiled=compiled)
    for stepping in (optimizer.step, lambda: (optimizer.propose(), optimizer.apply())):
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        alive = [weakref.ref(weight.grad.untyped_storage()) for weight in weights]
        stepping()
        optimizer.zero_grad()
        assert not [reference for reference in alive if reference() is not None]
