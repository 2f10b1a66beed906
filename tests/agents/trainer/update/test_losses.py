"""Each loss against numbers worked out by hand and a plain formula in float64, by value and gradient."""

import itertools
import math
from collections.abc import Callable, Sequence

import pytest
import torch

from agents.trainer.scoring.prefix_scoring import Scores
from agents.trainer.update import losses
from agents.trainer.update.losses import Loss

CHOSEN, REJECTED = [-4.0, -0.5, -30.0], [-6.0, -7.0, -2.0]
TOKENS, OTHER_TOKENS = [3, 1, 12], [2, 5, 4]
WEIGHTS = [1.0, 0.5, 0.25]
REFERENCE, OTHER_REFERENCE = [-3.0, -0.75, -29.0], [-5.5, -6.0, -3.0]

Given = dict[str, torch.Tensor]
"""chosen, rejected, tokens, other_tokens, weights (n,) and references (n, 2)."""


def given(rows: slice = slice(None), *, grad: bool = False) -> Given:
    """Return the examples above, or some of them."""
    return {
        "chosen": torch.tensor(CHOSEN[rows], requires_grad=grad),
        "rejected": torch.tensor(REJECTED[rows], requires_grad=grad),
        "tokens": torch.tensor(TOKENS[rows]),
        "other_tokens": torch.tensor(OTHER_TOKENS[rows]),
        "weights": torch.tensor(WEIGHTS[rows]),
        "references": torch.tensor([REFERENCE[rows], OTHER_REFERENCE[rows]]).T,
    }


def run(name: str, g: Given, count: int | None = None) -> Loss:
    """Return this loss of these examples."""
    chosen = Scores(total=g["chosen"], tokens=g["tokens"])
    rejected = Scores(total=g["rejected"], tokens=g["other_tokens"])
    weights, references = g["weights"], g["references"]
    if name == "sft":
        return losses.sft(chosen, weights, count=count)
    if name == "orpo":
        return losses.orpo(chosen, rejected, weights, strength=0.3, count=count)
    if name == "simpo":
        return losses.simpo(chosen, rejected, weights, beta=0.3, margin=0.7, count=count)
    if name == "kto":
        more = {"reference_point": 0.4, "desirable": 1.2, "undesirable": 0.8}
        return losses.kto(chosen, rejected, references, weights, beta=0.3, count=count, **more)
    penalty = 5.0 if name == "dpop" else 0.0
    return losses.dpo(chosen, rejected, references, weights, beta=0.3, penalty=penalty, count=count)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def naive_sft(w: float, l: float, i: int) -> float:  # noqa: E741
    return -w / TOKENS[i]


def naive_dpo(w: float, l: float, i: int) -> float:  # noqa: E741
    return -math.log(sigmoid(0.3 * (w - REFERENCE[i]) - 0.3 * (l - OTHER_REFERENCE[i])))


def naive_dpop(w: float, l: float, i: int) -> float:  # noqa: E741
    ratio, other_ratio = w - REFERENCE[i], l - OTHER_REFERENCE[i]
    return -math.log(sigmoid(0.3 * (ratio - other_ratio - 5 * max(0.0, REFERENCE[i] - w))))


def naive_orpo(w: float, l: float, i: int) -> float:  # noqa: E741
    p, q = math.exp(w / TOKENS[i]), math.exp(l / OTHER_TOKENS[i])
    return -math.log(p) - 0.3 * math.log(sigmoid(math.log(p / (1 - p) / (q / (1 - q)))))


def naive_simpo(w: float, l: float, i: int) -> float:  # noqa: E741
    return -math.log(sigmoid(0.3 / TOKENS[i] * w - 0.3 / OTHER_TOKENS[i] * l - 0.7))


def naive_kto(w: float, l: float, i: int) -> float:  # noqa: E741
    value = 1.2 * sigmoid(0.3 * (w - REFERENCE[i] - 0.4))
    other_value = 0.8 * sigmoid(0.3 * (0.4 - (l - OTHER_REFERENCE[i])))
    return ((1.2 - value) + (0.8 - other_value)) / 2


NAIVE: dict[str, Callable[[float, float, int], float]] = {
    "sft": naive_sft,
    "dpo": naive_dpo,
    "dpop": naive_dpop,
    "orpo": naive_orpo,
    "simpo": naive_simpo,
    "kto": naive_kto,
}


def side(total: float, tokens: int) -> Scores:
    return Scores(total=torch.tensor([total]), tokens=torch.tensor([tokens]))


def refer(chosen: float, rejected: float) -> torch.Tensor:
    return torch.tensor([[chosen, rejected]])


ONE = torch.ones(1)
BY_HAND: dict[str, tuple[Loss, float]] = {
    # -(-6) / 3
    "sft": (losses.sft(side(-6, 3), ONE), 2.0),
    # Rewards 0.5 (-4 + 6) = 1 and 0.5 (-5 + 3) = -1; -log sigmoid(2)
    "dpo": (losses.dpo(side(-4, 3), side(-5, 2), refer(-6, -3), ONE, beta=0.5), 0.1269280),
    # Rewards 0.5 (-8 + 6) = -1 and 0.5 (-9 + 5) = -2; penalty 0.5 * 5 * 2 = 5; -log sigmoid(-1 + 2 - 5)
    "dpop": (losses.dpo(side(-8, 3), side(-9, 2), refer(-6, -5), ONE, beta=0.5, penalty=5.0), 4.0181499),
    # 0.8 a token has odds 4, 0.5 has odds 1; sigmoid(log 4) = 0.8; -log 0.8 - 0.25 log 0.8
    "orpo": (losses.orpo(side(2 * math.log(0.8), 2), side(math.log(0.5), 1), ONE, strength=0.25), 0.2789294),
    # Rewards 2 * -3 / 3 = -2 and 2 * -5 / 2 = -5; -log sigmoid(-2 + 5 - 0.5)
    "simpo": (losses.simpo(side(-3, 3), side(-5, 2), ONE, beta=2.0, margin=0.5), 0.0788897),
    # r = 4 and -1, z_0 = 1; (1 - sigmoid(0.5 (4 - 1)) + 2 (1 - sigmoid(0.5 (1 + 1)))) / 2
    "kto": (
        losses.kto(
            side(-4, 3), side(-5, 2), refer(-8, -4), ONE, beta=0.5, reference_point=1.0, undesirable=2.0
        ),
        0.3601543,
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_one_example_gives_the_value_computed_by_hand(name: str) -> None:
    loss, expected = BY_HAND[name]
    assert float(loss.value) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", NAIVE)
def test_the_loss_and_its_gradient_are_those_of_the_paper(name: str) -> None:
    g, naive = given(grad=True), NAIVE[name]
    loss = run(name, g)
    loss.value.backward()

    def whole(w: Sequence[float], r: Sequence[float]) -> float:
        return sum(WEIGHTS[i] * naive(w[i], r[i], i) for i in range(3)) / 3

    assert float(loss.value.detach()) == pytest.approx(whole(CHOSEN, REJECTED), rel=1e-5)
    step = 1e-5
    for at, tensor in enumerate((g["chosen"], g["rejected"])):
        for i in range(3):
            shifted = [[list(CHOSEN), list(REJECTED)] for _ in range(2)]
            shifted[0][at][i] += step
            shifted[1][at][i] -= step
            slope = (whole(*shifted[0]) - whole(*shifted[1])) / (2 * step)
            actual = 0.0 if tensor.grad is None else float(tensor.grad[i])
            assert actual == pytest.approx(slope, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("name", NAIVE)
def test_the_gradients_of_a_steps_parts_add_up_to_the_steps(name: str) -> None:
    whole = given(grad=True)
    loss = run(name, whole)
    loss.value.backward()
    parts = [given(rows, grad=True) for rows in (slice(0, 1), slice(1, 3))]
    values = [run(name, part, count=3).value for part in parts]
    total = torch.stack(values).sum()
    total.backward()
    assert float(total.detach()) == pytest.approx(float(loss.value.detach()), rel=1e-6)
    for key in ("chosen",) if name == "sft" else ("chosen", "rejected"):
        actual = torch.cat([part[key].grad for part in parts if part[key].grad is not None])
        assert torch.allclose(actual, whole[key].grad, rtol=1e-6, atol=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAIVE)
def test_an_example_of_low_trust_counts_less_and_does_not_change_the_others(name: str) -> None:
    full, half, none = (given(grad=True) for _ in range(3))
    for g, weight in ((full, 1.0), (half, 0.5), (none, 0.0)):
        g["weights"] = torch.tensor([1.0, weight, 1.0])
        run(name, g).value.backward()
    gradients = [g["chosen"].grad for g in (full, half, none)]
    assert [float(g[1]) for g in gradients] == pytest.approx(
        [float(gradients[0][1]) * w for w in (1, 0.5, 0)]
    )
    assert all(torch.equal(g[[0, 2]], gradients[0][[0, 2]]) for g in gradients)
    assert bool((gradients[0] != 0).all())


@pytest.mark.parametrize("name", NAIVE)
def test_certain_and_impossible_answers_give_neither_nan_nor_infinity(name: str) -> None:
    corners = list(itertools.product((0.0, -1e4), (0.0, -1e4), (0.0, -1e4), (0.0, -1e4), (1, 1000)))
    chosen, rejected, reference, other, tokens = (
        torch.tensor(column) for column in zip(*corners, strict=True)
    )
    g: Given = {
        "chosen": (chosen * tokens).requires_grad_(),
        "rejected": (rejected * tokens).requires_grad_(),
        "tokens": tokens,
        "other_tokens": tokens,
        "weights": torch.ones(len(corners)),
        "references": torch.stack([reference * tokens, other * tokens], dim=1),
    }
    loss = run(name, g)
    loss.value.backward()
    assert math.isfinite(float(loss.value.detach())) and all(
        math.isfinite(value) for value in loss.metrics.values()
    )
    for key in ("chosen",) if name == "sft" else ("chosen", "rejected"):
        gradient = g[key].grad
        assert gradient is not None and bool(torch.isfinite(gradient).all()) and bool((gradient != 0).any())


def test_rewards_and_log_probabilities_are_separate_metrics() -> None:
    chosen = Scores(total=torch.tensor([-4.0, -6.0]), tokens=torch.tensor([2, 2]))
    rejected = Scores(total=torch.tensor([-8.0, -2.0]), tokens=torch.tensor([4, 1]))
    references = torch.tensor([[-5.0, 0.0], [-5.0, 0.0]])
    actual = losses.dpo(chosen, rejected, references, torch.tensor([1.0, 0.5]), beta=0.5).metrics
    expected = {
        "chosen_logprob": -2.5,
        "rejected_logprob": -2.0,
        "chosen_reward": 0.0,
        "rejected_reward": -2.5,
    }
    assert dict(actual) == pytest.approx({**expected, "margin": 2.5, "accuracy": 1.0})
    actual = losses.simpo(chosen, rejected, torch.ones(2), beta=2.0, margin=1.0).metrics
    expected = {
        "chosen_logprob": -2.5,
        "rejected_logprob": -2.0,
        "chosen_reward": -5.0,
        "rejected_reward": -4.0,
    }
    assert dict(actual) == pytest.approx({**expected, "margin": -1.0, "accuracy": 0.0})
    actual = losses.kto(chosen, rejected, references, torch.ones(2), beta=0.5, reference_point=-3.0).metrics
    assert actual["reference_point"] == 0.0 and actual["margin"] == pytest.approx(2.5)


def test_dpop_is_dpo_while_the_chosen_answer_is_likelier_than_under_the_reference() -> None:
    for total, same in ((-2.5, True), (-3.5, False)):
        sides = side(total, 3), side(-5.0, 2), refer(-3.0, -4.0), ONE
        with_penalty, without = (losses.dpo(*sides, beta=0.3, penalty=p).value for p in (5.0, 0.0))
        assert torch.equal(with_penalty, without) is same


def test_a_negative_reference_point_counts_as_zero() -> None:
    sides = side(-4.0, 3), side(-5.0, 2), refer(-3.0, -4.5), ONE
    values = [losses.kto(*sides, beta=0.3, reference_point=z).value for z in (-7.0, 0.0, 7.0)]
    assert torch.equal(values[0], values[1]) and not torch.equal(values[1], values[2])


def test_log1mexp_is_exact_at_both_ends() -> None:
    x = torch.tensor([-1e-6, -0.01, -0.693, -0.694, -5.0, -40.0], requires_grad=True)
    actual = losses.log1mexp(x)
    expected = [math.log(-math.expm1(float(v))) for v in x.detach()]
    assert actual.tolist() == pytest.approx(expected, rel=1e-5)
    actual.sum().backward()
    assert x.grad is not None and bool(torch.isfinite(x.grad).all())


def test_a_certain_answer_has_finite_odds_and_a_finite_gradient() -> None:
    x = torch.tensor([0.0, -1e-9, -200.0], requires_grad=True)
    odds = losses.log_odds(x)
    odds.sum().backward()
    assert bool(torch.isfinite(odds).all()) and x.grad is not None and bool(torch.isfinite(x.grad).all())
