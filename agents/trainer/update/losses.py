"""The objectives, as pure functions of the log-probabilities of continuations.

The objectives are SFT; DPO (arXiv 2305.18290) and DPOP (arXiv 2402.13228); ORPO (arXiv 2403.07691); SimPO
(arXiv 2405.14734); KTO (arXiv 2402.01306). Each function returns the loss and metrics. The metrics of chosen
and rejected answers are separate, because a margin may grow while the chosen answer becomes less likely.

Arguments that all objectives have: `chosen` and `rejected` are the log-probabilities of n answers each.
`weights`, (n,), are the examples' weights: each loss is multiplied by its example's weight, so that examples
of low trust move the model less. `count` is the number of examples in the whole step (None: n): the sum of
the losses is divided by it, so that the gradients of a step's passes add up to the step's gradient.

Invariant: all values are float32. Loss and gradient are finite for every finite log-probability. This module
knows nothing about models or tokens.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid

from agents.trainer.scoring.prefix_scoring import Scores

CERTAIN = -1e-6
"""Largest average log-probability (nats) whose odds are computed. A larger log-probability is replaced by
this one, since the odds at 0 are infinite."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The loss and metrics of n examples."""

    value: torch.Tensor
    """Scalar, to be differentiated."""
    metrics: Mapping[str, float]
    """Unweighted means over the n examples; log-probabilities in nats per token."""


def sft(chosen: Scores, weights: torch.Tensor, *, count: int | None = None) -> Loss:
    """Return the SFT loss: the average negative log-likelihood per token."""
    return Loss(value=_weighted(-chosen.mean, weights, count), metrics=_means(chosen_logprob=chosen.mean))


def dpo(
    chosen: Scores,
    rejected: Scores,
    references: torch.Tensor,
    weights: torch.Tensor,
    *,
    beta: float,
    penalty: float = 0.0,
    count: int | None = None,
) -> Loss:
    """Return the DPO loss on summed log-probabilities or, with a `penalty` (DPOP's lambda), the DPOP loss.

    `references`, (n, 2), are the summed log-probabilities (nats) of chosen and rejected answers under the
    reference weights.
    """
    # arXiv 2305.18290, section 4: r^(x, y) = beta log(pi(y|x) / pi_ref(y|x)).
    chosen_reward, rejected_reward = _rewards(chosen, rejected, references, beta)
    # arXiv 2402.13228, eq. 3: lambda max(0, log(pi_ref(y_w|x) / pi(y_w|x))), times beta, inside the sigmoid.
    shortfall = penalty * (-chosen_reward).clamp(min=0)
    # arXiv 2305.18290, eq. 7: L = -E[log sigmoid(r^(x, y_w) - r^(x, y_l))].
    each = -logsigmoid(chosen_reward - rejected_reward - shortfall)
    return Loss(
        value=_weighted(each, weights, count),
        metrics=_preference_metrics(chosen, rejected, chosen_reward, rejected_reward),
    )


def orpo(
    chosen: Scores, rejected: Scores, weights: torch.Tensor, *, strength: float, count: int | None = None
) -> Loss:
    """Return the ORPO loss on length-averaged log-probabilities; `strength` is ORPO's lambda."""
    # arXiv 2403.07691, eq. 3: log P(y|x) = 1/m sum_t log P(y_t | x, y_<t).
    chosen_mean, rejected_mean = chosen.mean, rejected.mean
    # arXiv 2403.07691, eq. 7: L_OR = -log sigmoid(log(odds(y_w|x) / odds(y_l|x))).
    log_ratio = log_odds(chosen_mean) - log_odds(rejected_mean)
    # arXiv 2403.07691, eq. 6: L = E[L_SFT + lambda L_OR].
    each = -chosen_mean - strength * logsigmoid(log_ratio)
    metrics = _preference_metrics(
        chosen, rejected, strength * chosen_mean, strength * rejected_mean, log_odds_ratio=log_ratio
    )
    return Loss(value=_weighted(each, weights, count), metrics=metrics)


def simpo(
    chosen: Scores,
    rejected: Scores,
    weights: torch.Tensor,
    *,
    beta: float,
    margin: float,
    count: int | None = None,
) -> Loss:
    """Return the SimPO loss on length-averaged log-probabilities; `margin` is SimPO's gamma."""
    # arXiv 2405.14734, eq. 4: r(x, y) = beta / |y| log pi(y|x).
    chosen_reward, rejected_reward = beta * chosen.mean, beta * rejected.mean
    # arXiv 2405.14734, eq. 6: L = -E[log sigmoid(r(x, y_w) - r(x, y_l) - gamma)].
    each = -logsigmoid(chosen_reward - rejected_reward - margin)
    return Loss(
        value=_weighted(each, weights, count),
        metrics=_preference_metrics(chosen, rejected, chosen_reward, rejected_reward),
    )


def kto(  # noqa: PLR0913 (the parameters of the paper)
    chosen: Scores,
    rejected: Scores,
    references: torch.Tensor,
    weights: torch.Tensor,
    *,
    beta: float,
    reference_point: float,
    desirable: float = 1.0,
    undesirable: float = 1.0,
    count: int | None = None,
) -> Loss:
    """Return the KTO loss: each answer of a pair has a loss, and the pair's loss is the mean of both.

    `references`, (n, 2), are those of `dpo`. `reference_point` is z_0 in nats, from
    `objective.reference_point`; it has no gradient. `desirable` and `undesirable` are lambda_D and lambda_U.
    """
    # arXiv 2402.01306, section 4.1: r(x, y) = log(pi(y|x) / pi_ref(y|x)), here times beta; z_0 >= 0.
    chosen_reward, rejected_reward = _rewards(chosen, rejected, references, beta)
    point = torch.full_like(chosen_reward, max(0.0, reference_point))
    # arXiv 2402.01306, eq. 7: lambda_D (1 - sigmoid(beta (r - z_0))), and 1 - sigmoid(x) is sigmoid(-x).
    of_chosen = desirable * torch.sigmoid(beta * point - chosen_reward)
    # arXiv 2402.01306, eq. 7: lambda_U (1 - sigmoid(beta (z_0 - r))).
    of_rejected = undesirable * torch.sigmoid(rejected_reward - beta * point)
    metrics = _preference_metrics(chosen, rejected, chosen_reward, rejected_reward, reference_point=point)
    return Loss(value=_weighted((of_chosen + of_rejected) / 2, weights, count), metrics=metrics)


def log_odds(log_probability: torch.Tensor) -> torch.Tensor:
    """Return log(p / (1 - p)) for log p in nats (arXiv 2403.07691, eq. 4), computed in the log domain."""
    certain = log_probability.clamp(max=CERTAIN)
    return certain - log1mexp(certain)


def log1mexp(x: torch.Tensor) -> torch.Tensor:
    """Return log(1 - exp(x)) for x < 0, exact near 0 and far below it, with a formula for each range."""
    near = x > -math.log(2)
    small = torch.where(near, x, torch.full_like(x, -1.0))
    large = torch.where(near, torch.full_like(x, -1.0), x)
    return torch.where(near, torch.log(-torch.expm1(small)), torch.log1p(-torch.exp(large)))


def _rewards(
    chosen: Scores, rejected: Scores, references: torch.Tensor, beta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return beta log(pi / pi_ref) of the chosen and of the rejected answers, (n,) each."""
    return beta * (chosen.total - references[:, 0]), beta * (rejected.total - references[:, 1])


def _weighted(each: torch.Tensor, weights: torch.Tensor, count: int | None) -> torch.Tensor:
    """Return the sum of weight times loss, divided by `count` (None: the number of losses)."""
    return (each * weights).sum() / (each.shape[0] if count is None else count)


def _preference_metrics(
    chosen: Scores,
    rejected: Scores,
    chosen_reward: torch.Tensor,
    rejected_reward: torch.Tensor,
    **more: torch.Tensor,
) -> dict[str, float]:
    """Return the metrics that every preference loss has, and the mean of each value in `more`."""
    margin = chosen_reward - rejected_reward
    return _means(
        chosen_logprob=chosen.mean,
        rejected_logprob=rejected.mean,
        chosen_reward=chosen_reward,
        rejected_reward=rejected_reward,
        margin=margin,
        accuracy=(margin > 0).to(margin.dtype),
        **more,
    )


def _means(**values: torch.Tensor) -> dict[str, float]:
    """Return the mean of each value. All are read at once, since every read waits for the device."""
    means = torch.stack([value.detach() for value in values.values()]).mean(dim=1)
    return dict(zip(values, means.tolist(), strict=True))
