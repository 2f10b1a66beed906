"""The objectives, as pure functions of the log-probabilities of continuations.

SFT; DPO (arXiv 2305.18290); ORPO (arXiv 2403.07691). Each returns the loss and what to watch besides it:
chosen and rejected apart, because a margin may grow while the chosen answer becomes less likely.

Invariant: float32 throughout; an example's weight multiplies its loss, and the sum is divided by the number
of examples, so a batch of distrusted examples moves the weights less. Knows no model and no token.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid

CERTAIN = -1e-6
"""Largest average log-probability (nats) whose odds are taken: at 0 they are infinite."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Log-probabilities of n continuations, given their contexts."""

    total: torch.Tensor
    """(n,) float32, nats, summed over the tokens."""
    tokens: torch.Tensor
    """(n,) number of tokens, at least 1."""

    @property
    def mean(self) -> torch.Tensor:
        """(n,) nats per token."""
        return self.total / self.tokens


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What one batch of n examples says."""

    value: torch.Tensor
    """Scalar, to be differentiated."""
    metrics: Mapping[str, float]
    """Means over the batch, unweighted; log-probabilities in nats per token."""


def sft(chosen: Scores, weights: torch.Tensor) -> Loss:
    """Supervised fine-tuning: the average negative log-likelihood per token. `weights` is (n,)."""
    each = -chosen.mean
    return Loss(value=_weighted(each, weights), metrics={"chosen_logprob": _number(chosen.mean)})


def dpo(
    chosen: Scores,
    rejected: Scores,
    reference_chosen: torch.Tensor,
    reference_rejected: torch.Tensor,
    weights: torch.Tensor,
    beta: float,
) -> Loss:
    """Direct preference optimization on summed log-probabilities.

    `reference_chosen` and `reference_rejected` are (n,), nats, summed, of the pinned reference weights.
    """
    # arXiv 2305.18290, section 4: r^(x, y) = beta log(pi(y|x) / pi_ref(y|x)).
    chosen_reward = beta * (chosen.total - reference_chosen)
    rejected_reward = beta * (rejected.total - reference_rejected)
    # arXiv 2305.18290, eq. 7: L = -E[log sigmoid(r^(x, y_w) - r^(x, y_l))].
    each = -logsigmoid(chosen_reward - rejected_reward)
    return Loss(value=_weighted(each, weights), metrics=_watched(chosen, rejected, chosen_reward, rejected_reward))


def orpo(chosen: Scores, rejected: Scores, weights: torch.Tensor, strength: float) -> Loss:
    """Odds ratio preference optimization on length-averaged log-probabilities; `strength` is its lambda."""
    # arXiv 2403.07691, eq. 3: log P(y|x) = 1/m sum_t log P(y_t | x, y_<t).
    chosen_mean, rejected_mean = chosen.mean, rejected.mean
    # arXiv 2403.07691, eq. 7: L_OR = -log sigmoid(log(odds(y_w|x) / odds(y_l|x))).
    log_ratio = log_odds(chosen_mean) - log_odds(rejected_mean)
    # arXiv 2403.07691, eq. 6: L = E[L_SFT + lambda L_OR].
    each = -chosen_mean - strength * logsigmoid(log_ratio)
    metrics = _watched(chosen, rejected, strength * chosen_mean, strength * rejected_mean)
    return Loss(value=_weighted(each, weights), metrics=metrics | {"log_odds_ratio": _number(log_ratio)})


def log_odds(log_probability: torch.Tensor) -> torch.Tensor:
    """log(p / (1 - p)) of log p in nats, arXiv 2403.07691 eq. 4, without leaving the log domain."""
    certain = log_probability.clamp(max=CERTAIN)
    return certain - log1mexp(certain)


def log1mexp(x: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(x)) for x < 0, exact at both ends; each side is kept off the other's singularity."""
    near = x > -math.log(2)
    small = torch.where(near, x, torch.full_like(x, -1.0))
    large = torch.where(near, torch.full_like(x, -1.0), x)
    return torch.where(near, torch.log(-torch.expm1(small)), torch.log1p(-torch.exp(large)))


def _weighted(each: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sum of weight times loss over the number of examples."""
    return (each * weights).sum() / each.shape[0]


def _watched(
    chosen: Scores, rejected: Scores, chosen_reward: torch.Tensor, rejected_reward: torch.Tensor
) -> dict[str, float]:
    margin = chosen_reward - rejected_reward
    return {
        "chosen_logprob": _number(chosen.mean),
        "rejected_logprob": _number(rejected.mean),
        "chosen_reward": _number(chosen_reward),
        "rejected_reward": _number(rejected_reward),
        "margin": _number(margin),
        "accuracy": _number((margin > 0).to(torch.float32)),
    }


def _number(values: torch.Tensor) -> float:
    return float(values.detach().mean())
