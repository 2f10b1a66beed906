"""Each loss against its formula, written naively in float64, value and gradient."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from agents.trainer import losses
from agents.trainer.losses import Scores

CHOSEN, REJECTED = [-4.0, -0.5, -30.0], [-6.0, -7.0, -2.0]
TOKENS, OTHER_TOKENS = [3, 1, 12], [2, 5, 4]
WEIGHTS = [1.0, 0.5, 0.25]
REFERENCE, OTHER_REFERENCE = [-5.0, -0.25, -29.0], [-5.5, -6.0, -3.0]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def naive_sft(w: float, l: float, i: int) -> float:  # noqa: E741
    return -w / TOKENS[i]


def naive_dpo(w: float, l: float, i: int) -> float:  # noqa: E741
    return -math.log(sigmoid(0.3 * (w - REFERENCE[i]) - 0.3 * (l - OTHER_REFERENCE[i])))


def naive_orpo(w: float, l: float, i: int) -> float:  # noqa: E741
    p, q = math.exp(w / TOKENS[i]), math.exp(l / OTHER_TOKENS[i])
    return -math.log(p) - 0.3 * math.log(sigmoid(math.log(p / (1 - p) / (q / (1 - q)))))


def run(name: str, chosen: Scores, rejected: Scores) -> losses.Loss:
    weights = torch.tensor(WEIGHTS)
    if name == "sft":
        return losses.sft(chosen, weights)
    if name == "orpo":
        return losses.orpo(chosen, rejected, weights, 0.3)
    return losses.dpo(chosen, rejected, torch.tensor(REFERENCE), torch.tensor(OTHER_REFERENCE), weights, 0.3)


@pytest.mark.parametrize("name, naive", [("sft", naive_sft), ("dpo", naive_dpo), ("orpo", naive_orpo)])
def test_the_loss_and_its_gradient_are_those_of_the_paper(name: str, naive: Callable[..., float]) -> None:
    chosen, rejected = (torch.tensor(x, requires_grad=True) for x in (CHOSEN, REJECTED))
    loss = run(
        name,
        Scores(total=chosen, tokens=torch.tensor(TOKENS)),
        Scores(total=rejected, tokens=torch.tensor(OTHER_TOKENS)),
    )
    loss.value.backward()

    def whole(w: list[float], r: list[float]) -> float:
        return sum(WEIGHTS[i] * naive(w[i], r[i], i) for i in range(3)) / 3

    assert float(loss.value.detach()) == pytest.approx(whole(CHOSEN, REJECTED), rel=1e-5)
    step = 1e-5
    for side, tensor in ((0, chosen), (1, rejected)):
        for i in range(3):
            shifted = [[list(CHOSEN), list(REJECTED)] for _ in range(2)]
            shifted[0][side][i] += step
            shifted[1][side][i] -= step
            slope = (whole(*shifted[0]) - whole(*shifted[1])) / (2 * step)
            found = 0.0 if tensor.grad is None else float(tensor.grad[i])
            assert found == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_rewards_and_log_probabilities_are_told_apart() -> None:
    chosen = Scores(total=torch.tensor([-4.0, -6.0]), tokens=torch.tensor([2, 2]))
    rejected = Scores(total=torch.tensor([-8.0, -2.0]), tokens=torch.tensor([4, 1]))
    found = losses.dpo(chosen, rejected, torch.tensor([-5.0, -5.0]), torch.zeros(2), torch.ones(2), 0.5).metrics
    expected: dict[str, Any] = {"chosen_logprob": -2.5, "rejected_logprob": -2.0}
    expected |= {"chosen_reward": 0.0, "rejected_reward": -2.5, "margin": 2.5, "accuracy": 1.0}
    assert dict(found) == pytest.approx(expected)


def test_log1mexp_is_exact_at_both_ends() -> None:
    x = torch.tensor([-1e-6, -0.01, -0.693, -0.694, -5.0, -40.0], requires_grad=True)
    found = losses.log1mexp(x)
    expected = [math.log(-math.expm1(float(v))) for v in x.detach()]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    found.sum().backward()
    assert x.grad is not None and bool(torch.isfinite(x.grad).all())


def test_a_certain_answer_has_finite_odds_and_a_finite_gradient() -> None:
    x = torch.tensor([0.0, -1e-9, -200.0], requires_grad=True)
    odds = losses.log_odds(x)
    odds.sum().backward()
    assert bool(torch.isfinite(odds).all()) and x.grad is not None and bool(torch.isfinite(x.grad).all())


def test_a_distrusted_example_moves_the_loss_less() -> None:
    chosen = Scores(total=torch.tensor([-4.0]), tokens=torch.tensor([2]))
    full, half = (losses.sft(chosen, torch.tensor([w])).value for w in (1.0, 0.5))
    assert float(half) == pytest.approx(0.5 * float(full))
