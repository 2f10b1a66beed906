"""Apollo against a computation by hand, and the state that must survive a checkpoint."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.model.weights.snapshot import from_raw, to_raw
from agents.trainer.apollo import kernel
from agents.trainer.apollo.optimizer import DEFAULT_RANK, Apollo
from corpus.errors import TrainerFault
from store.checkpoints.store import CheckpointStore

COMPILED = [False, pytest.param(True, marks=pytest.mark.skipif(not kernel.is_built(), reason="no compiler"))]


def by_hand(
    weight: np.ndarray, gradients: list[np.ndarray], projections: list[np.ndarray], **s: Any
) -> list[np.ndarray]:
    """Algorithm 1 of arXiv 2412.05270 for a (n, c) matrix with n <= c, element by element in float64."""
    n, c = weight.shape
    rank = projections[0].shape[0]
    alpha = s.get("scale") or math.sqrt(n / rank)
    m, v = np.zeros((rank, c)), np.zeros((rank, c))
    before, seen, weight = None, [], weight.astype(np.float64).copy()
    for t, (g, p) in enumerate(zip(gradients, projections, strict=True), start=1):
        r = np.array([[sum(p[i, k] * g[k, j] for k in range(n)) for j in range(c)] for i in range(rank)])
        m = s["betas"][0] * m + (1 - s["betas"][0]) * r
        v = s["betas"][1] * v + (1 - s["betas"][1]) * r * r
        adapted = m / (np.sqrt(v) + s["eps"])
        update = np.zeros((n, c))
        for j in range(c):
            column = slice(None) if rank == 1 else slice(j, j + 1)
            length = math.sqrt((r[:, column] ** 2).sum())
            scale = math.sqrt((adapted[:, column] ** 2).sum()) / length if length else 0.0
            update[:, j] = alpha * scale * g[:, j]
        norm = math.sqrt((update**2).sum())
        if before is not None and norm > s["norm_growth_limit"] * before:
            update *= s["norm_growth_limit"] * before / norm
        norm = math.sqrt((update**2).sum())
        before = norm if norm > 0 else before
        rate = s["lr"] * min(1, t / max(1, s["warmup_steps"]))
        corrected = rate * math.sqrt(1 - s["betas"][1] ** t) / (1 - s["betas"][0] ** t)
        weight = weight * (1 - rate * s["weight_decay"]) - corrected * update
        seen.append(weight.copy())
    return seen


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (7, 7)])
@pytest.mark.parametrize("rank", [1, 3, 64])
@pytest.mark.parametrize("scale", [None, 2.5])
@pytest.mark.parametrize("projection", ["gaussian", "sketch"])
@pytest.mark.parametrize("compiled", COMPILED)
def test_a_matrix_is_updated_as_algorithm_1_says(
    shape: tuple[int, int], rank: int, scale: float | None, projection: Any, compiled: bool
) -> None:
    settings: dict[str, Any] = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    settings |= {"warmup_steps": 3, "norm_growth_limit": 1.01}
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(shape))
    start = weight.detach().numpy().copy()
    gradients = [torch.randn(shape) * size for size in (1.0, 3.0, 0.5, 0.7, 2.0)]
    own: dict[str, Any] = {"scale": scale, "projection": projection, "compiled": compiled}
    optimizer = Apollo([weight], rank=rank, proj_refresh=2, seed=9, **own, **settings)
    actual, projections = [], []
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
        actual.append(weight.detach().numpy().copy())
        projections.append(optimizer.projection(weight).numpy())
    assert np.array_equal(projections[0], projections[1]) and not np.array_equal(
        projections[1], projections[2]
    )
    upright = shape[0] <= shape[1]  # the smaller side first; a square is projected on dimension 0
    turned = [g.numpy() if upright else g.numpy().T for g in gradients]
    expected = by_hand(start if upright else start.T, turned, projections, scale=scale, **settings)
    for ours, theirs in zip(actual, expected, strict=True):
        assert np.allclose(ours if upright else ours.T, theirs, atol=1e-5)


def test_parameters_that_are_not_matrices_get_adamw() -> None:
    torch.manual_seed(0)
    start = [torch.randn(5), torch.randn(2, 3, 4), torch.randn(())]
    ours, theirs = ([torch.nn.Parameter(t.clone()) for t in start] for _ in range(2))
    settings: dict[str, Any] = {"lr": 0.03, "betas": (0.9, 0.99), "weight_decay": 0.2}
    first, second = Apollo(ours, eps=1e-12, **settings), torch.optim.AdamW(theirs, eps=1e-12, **settings)
    for _ in range(5):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape)
            other.grad = mine.grad.clone()
        first.step()
        second.step()
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, atol=1e-6)


def test_the_projection_is_gaussian_with_variance_one_over_rank_on_the_smaller_side() -> None:
    weight = torch.nn.Parameter(torch.zeros(900, 400))
    projection = Apollo([weight], 0.1).projection(weight)
    assert projection.shape == (DEFAULT_RANK, 400)
    assert float(projection.mean()) == pytest.approx(0, abs=0.003)
    assert float(projection.var()) == pytest.approx(1 / DEFAULT_RANK, rel=0.03)
    small = torch.nn.Parameter(torch.zeros(5, 900))
    assert Apollo([small], 0.1).projection(small).shape == (5, 5)


def test_matrices_of_one_width_share_their_projection_and_another_seed_has_others() -> None:
    weights = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((8, 8), (8, 20), (20, 8), (9, 20))]
    one, other = Apollo(weights, 0.1, rank=4, seed=1), Apollo(weights, 0.1, rank=4, seed=2)
    first, *rest = (one.projection(weight) for weight in weights)
    assert torch.equal(first, rest[0]) and torch.equal(first, rest[1]) and rest[2].shape == (4, 9)
    assert not torch.equal(first, other.projection(weights[0]))


@pytest.mark.parametrize("compiled", COMPILED)
def test_one_gradient_of_zeros_does_not_freeze_a_matrix(compiled: bool) -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(6, 8))
    optimizer = Apollo([weight], 0.01, rank=4, compiled=compiled)
    moved = []
    for gradient in (torch.randn(6, 8), torch.zeros(6, 8), torch.randn(6, 8), torch.randn(6, 8)):
        before = weight.detach().clone()
        weight.grad = gradient
        optimizer.step()
        moved.append(float((weight.detach() - before).norm()))
    assert moved[1] == 0 and moved[2] > 0.3 * moved[0]
    first_is_zero = torch.nn.Parameter(torch.randn(6, 8))
    optimizer = Apollo([first_is_zero], 0.01, rank=4, compiled=compiled)
    for gradient in (torch.zeros(6, 8), torch.ones(6, 8)):
        before = first_is_zero.detach().clone()
        first_is_zero.grad = gradient
        optimizer.step()
    assert float((first_is_zero.detach() - before).norm()) > 0


@pytest.mark.parametrize("compiled", COMPILED)
def test_the_limiter_reports_its_divisor_and_can_be_reset(compiled: bool) -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(6, 8))
    optimizer = Apollo([weight], 1.0, rank=4, betas=(0.0, 0.0), compiled=compiled)
    gradient = torch.randn(6, 8)
    one_column = torch.zeros(6, 8)
    one_column[:, 0] = gradient[:, 0]

    def proposed(given: torch.Tensor) -> float:
        weight.grad = given
        return float(optimizer.propose())

    assert optimizer.limiter_divisor == 1.0  # before any step
    small = proposed(one_column)
    assert optimizer.limiter_divisor == 1.0
    assert proposed(gradient) == pytest.approx(1.01 * small, rel=1e-5)
    limited, divisor = 1.01 * small, optimizer.limiter_divisor
    optimizer.reset_limiter()
    free = proposed(gradient)
    assert optimizer.limiter_divisor == 1.0
    assert divisor == pytest.approx(free / limited, rel=1e-4) and divisor > 1.5


def test_an_update_grows_by_no_more_than_the_limit() -> None:
    weight = torch.nn.Parameter(torch.zeros(6, 8))
    optimizer = Apollo([weight], 1.0, rank=4, betas=(0.0, 0.0), norm_growth_limit=1.5)
    torch.manual_seed(0)
    norms = []
    # Without memory R~ is the sign of R, so the update follows the size of a gradient's columns not at all;
    # a gradient in one column alone and then in all of them makes it grow eightfold.
    for columns in (1, 8, 8, 8):
        weight.grad = torch.zeros(6, 8)
        weight.grad[:, :columns] = torch.randn(6, columns)
        before = weight.detach().clone()
        optimizer.step()
        norms.append(float((weight.detach() - before).norm()))
    assert norms[1] == pytest.approx(1.5 * norms[0], rel=1e-5)
    assert all(later <= 1.5 * earlier * 1.00001 for earlier, later in itertools.pairwise(norms))


def test_a_proposal_writes_no_weight_and_knows_its_norm() -> None:
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape)) for shape in ((6, 8), (8, 6), (5,))]
    before = [w.detach().clone() for w in weights]
    optimizer = Apollo(weights, 0.01, rank=3)
    for weight in weights:
        weight.grad = torch.randn(weight.shape)
    norm = float(optimizer.propose())
    assert all(torch.equal(w, b) for w, b in zip(weights, before, strict=True))
    optimizer.apply()
    change = torch.cat([(w.detach() - b).flatten() for w, b in zip(weights, before, strict=True)])
    assert norm == pytest.approx(float(change.norm()), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_state_written_to_a_checkpoint_and_read_back_continues_bit_for_bit(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    shapes = [(6, 9), (9, 6), (4,), (3, 3)]
    names = ["a", "b.weight", "c", "d"]
    start = [torch.randn(shape).to(dtype) for shape in shapes]
    gradients = [[torch.randn(shape).to(dtype) for shape in shapes] for _ in range(8)]

    def run(optimizer: Apollo, steps: list[list[torch.Tensor]]) -> None:
        for step in steps:
            for parameter, gradient in zip(optimizer.parameters, step, strict=True):
                parameter.grad = gradient.clone()
            optimizer.parameters[3].grad = None  # one that is never trained has no state
            optimizer.step()

    def make(weights: list[torch.Tensor], seed: int) -> Apollo:
        parameters = [torch.nn.Parameter(w.clone()) for w in weights]
        return Apollo(parameters, 0.01, rank=3, proj_refresh=3, warmup_steps=6, seed=seed)

    whole = make(start, 4)
    run(whole, gradients)
    first = make(start, 4)
    run(first, gradients[:5])
    store = CheckpointStore(tmp_path)
    state = {name: to_raw(t) for name, t in first.export_state(names).items()}
    files = store.write({"w": to_raw(torch.zeros(1))}, state, {})
    loaded = {name: from_raw(raw) for name, raw in (store.load_optimizer(files.id) or {}).items()}
    second = make([p.detach() for p in first.parameters], 99)
    assert second.fits(names, loaded)
    second.import_state(names, loaded)
    run(second, gradients[5:])
    for expected, actual in zip(whole.parameters, second.parameters, strict=True):
        assert torch.equal(expected, actual)
    exported = second.export_state(names)
    assert all(torch.equal(t, exported[name]) for name, t in whole.export_state(names).items())


def test_a_state_of_another_rank_or_model_is_refused() -> None:
    def trained(rank: int, shape: tuple[int, int] = (6, 9)) -> Apollo:
        weight = torch.nn.Parameter(torch.ones(shape))
        weight.grad = torch.ones(shape)
        optimizer = Apollo([weight], 0.1, rank=rank)
        optimizer.step()
        return optimizer

    state = trained(3).export_state(["a"])
    for other, name in ((trained(4), "a"), (trained(3, (6, 8)), "a"), (trained(3), "b")):
        with pytest.raises(TrainerFault, match="another rank, another projection or for another model"):
            other.import_state([name], state)


def test_weights_in_half_precision_other_than_bfloat16_are_refused() -> None:
    with pytest.raises(TrainerFault, match="float16"):
        Apollo([torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.float16))], 0.1)


def test_apollo_learns_a_linear_map() -> None:
    torch.manual_seed(0)
    target, inputs = torch.randn(12, 20), torch.randn(200, 20)
    weight = torch.nn.Parameter(torch.zeros(12, 20))
    optimizer = Apollo([weight], 0.02, rank=4)
    losses = []
    for _ in range(300):
        optimizer.zero_grad()
        loss = ((inputs @ (weight - target).T) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.01 * losses[0]
