"""Computes one step of Apollo in torch, on any device: matrices by Algorithm 1, other tensors by AdamW.

A step has two passes: `measure` advances the moments and computes every update, `apply` writes the weights.

Invariant: nothing here waits for a GPU, because no number is read back. Parameters of one shape are computed
together. `measure` writes no weight. This module knows nothing about seeds or the schedule: a `ParamStep`
holds one parameter's part of a step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch

from agents.trainer.apollo.projection import Projection, is_wide
from agents.trainer.apollo.rounding import stochastic_round


@dataclass(frozen=True, kw_only=True)
class GroupHyperparams:
    """Values that all parameters of a group share in one step."""

    betas: tuple[float, float]
    eps: float
    rate: float
    """Learning rate, including warm-up and Adam's bias correction."""
    decay: float
    """Factor on each weight before the update (decoupled weight decay)."""
    tensor_wise: bool
    """Whether a whole matrix has one scale (Apollo-Mini) instead of one for each channel."""
    growth_limit: float


class ParamStep(NamedTuple):
    """One parameter's part of one step; a tuple, since every step makes many and tuples are made quickly."""

    parameter: torch.Tensor
    gradient: torch.Tensor
    state: dict[str, Any]
    """The tensors moment1 and moment2. For a matrix also norm: a scalar, the norm of the last update before
    it was multiplied by the learning rate; 0 if there was none. With master weights also master."""
    group: GroupHyperparams
    key: int
    """Key of the stochastic rounding, for a bfloat16 weight."""
    projection: Projection | None
    """Projection of a matrix's gradient; None if AdamW updates the parameter."""
    alpha: float

    @property
    def written(self) -> torch.Tensor:
        """The tensor that the update changes: the float32 master weights, if there are any."""
        master = self.state.get("master")
        return self.parameter if master is None else master

    def round_master(self) -> None:
        """Set the weight to its master, rounded to nearest."""
        if "master" in self.state:
            self.parameter.copy_(self.state["master"])

    def write(self, direction: torch.Tensor, factor: torch.Tensor | float) -> None:
        """Set weight = decay * weight - factor * direction; factor and direction broadcast, float32."""
        weight = self.written
        exact = weight if weight.dtype == torch.float32 else weight.to(torch.float32)
        if self.group.decay != 1:
            exact.mul_(self.group.decay)
        if isinstance(factor, float):
            exact.sub_(direction, alpha=factor)
        else:
            exact.addcmul_(direction, factor, value=-1)
        if exact is not weight:
            weight.copy_(stochastic_round(exact, self.key))
        self.round_master()


class Batch(Protocol):
    """Parameters whose step is computed together."""

    def measure(self) -> None:
        """Advance the moments and compute the updates; writes no weight."""

    def apply(self) -> None:
        """Write the measured updates to the weights."""

    def step(self) -> None:
        """Measure the updates and write them."""

    def norms(self) -> list[torch.Tensor]:
        """Return the Euclidean norms of the measured updates, without the decay."""

    def divisors(self) -> list[torch.Tensor]:
        """Return the divisors of the norm-growth limiter, one for each matrix; 1: not limited."""


class MatrixBatch:
    """Matrices of one shape and one rate."""

    def __init__(self, steps: Sequence[ParamStep]) -> None:
        self._steps = steps

    def measure(self) -> None:
        """Advance the moments and compute the updates by Algorithm 1 of arXiv 2412.05270."""
        first, group = self._steps[0], self._steps[0].group
        wide = is_wide(first.parameter.shape)
        assert first.projection is not None
        gradients = _stacked([step.gradient for step in self._steps]).to(torch.float32)
        projected = first.projection.project(gradients)  # R
        adapted = self._advance(projected)  # R~
        # s_j = |R~_j| / |R_j| for each channel; one s in all for Mini (section 4.2).
        across = (1, 2) if group.tensor_wise else (1 if wide else 2,)
        before, after = _lengths(projected, across), _lengths(adapted, across)
        scales = torch.where(before > 0, first.alpha * after / before, 0.0)
        lengths = _lengths(gradients, (1 if wide else 2,))
        self._norms = _lengths(scales * lengths, (1, 2)).flatten()
        self._limit()
        self._factors = scales * (group.rate / self._divisors)[:, None, None]

    def _advance(self, projected: torch.Tensor) -> torch.Tensor:
        """Advance the moments; return M / (sqrt(V) + eps), without bias correction."""
        (beta1, beta2), states = self._steps[0].group.betas, [step.state for step in self._steps]
        moment1 = (
            torch.stack([state["moment1"] for state in states]).mul_(beta1).add_(projected, alpha=1 - beta1)
        )
        moment2 = torch.stack([state["moment2"] for state in states]).mul_(beta2)
        moment2.addcmul_(projected, projected, value=1 - beta2)
        torch._foreach_copy_([state["moment1"] for state in states], list(moment1.unbind()))
        torch._foreach_copy_([state["moment2"] for state in states], list(moment2.unbind()))
        return moment1 / (moment2.sqrt_() + self._steps[0].group.eps)

    def _limit(self) -> None:
        """Apply the norm-growth limiter of section 4: |G~_t| <= gamma |G~_t-1|."""
        last = torch.stack([step.state["norm"] for step in self._steps])
        ceiling = self._steps[0].group.growth_limit * last
        limited = (last > 0) & (self._norms > ceiling)
        self._divisors = torch.where(limited, self._norms / ceiling, 1.0)
        self._norms = self._norms / self._divisors
        # A zero norm is never stored: its ceiling would be zero, and the matrix would never move again.
        kept = torch.where((self._norms > 0) & torch.isfinite(self._norms), self._norms, last)
        torch._foreach_copy_([step.state["norm"] for step in self._steps], list(kept.unbind()))

    def apply(self) -> None:
        """Write the measured updates to the weights."""
        for step, factor in zip(self._steps, self._factors, strict=True):
            step.write(step.gradient.to(torch.float32), factor)

    def step(self) -> None:
        """Measure the updates and write them."""
        self.measure()
        self.apply()

    def norms(self) -> list[torch.Tensor]:
        """Return the norms, (matrices,) float32."""
        return [self._norms * self._steps[0].group.rate]

    def divisors(self) -> list[torch.Tensor]:
        """Return the divisors, (matrices,) float32."""
        return [self._divisors]


def _lengths(tensor: torch.Tensor, across: tuple[int, ...]) -> torch.Tensor:
    """Return norms over these dimensions, which keep length 1 (torch's function takes six times as long)."""
    return tensor.square().sum(across, keepdim=True).sqrt_()


def _stacked(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Return the tensors stacked to (k, ...); a single tensor is not copied."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(tensors)


class AdamWBatch:
    """Parameters that are not matrices and have one rate; AdamW (arXiv 1711.05101) updates them."""

    def __init__(self, steps: Sequence[ParamStep]) -> None:
        self._steps = steps

    def measure(self) -> None:
        """Advance the moments and compute the updates."""
        group = self._steps[0].group
        (beta1, beta2), eps = group.betas, group.eps
        moment1, moment2 = ([step.state[name] for step in self._steps] for name in ("moment1", "moment2"))
        gradients = [step.gradient.to(torch.float32) for step in self._steps]
        torch._foreach_mul_(moment1, beta1)
        torch._foreach_add_(moment1, gradients, alpha=1 - beta1)
        torch._foreach_mul_(moment2, beta2)
        torch._foreach_addcmul_(moment2, gradients, gradients, value=1 - beta2)
        below = torch._foreach_add(torch._foreach_sqrt(moment2), eps)
        self._directions = torch._foreach_div(moment1, below)

    def apply(self) -> None:
        """Write the measured updates to the weights."""
        for step, direction in zip(self._steps, self._directions, strict=True):
            step.write(direction, step.group.rate)

    def step(self) -> None:
        """Measure the updates and write them."""
        self.measure()
        self.apply()

    def norms(self) -> list[torch.Tensor]:
        """Return the norms, (tensors,) float32."""
        return [torch.stack(list(torch._foreach_norm(self._directions))) * self._steps[0].group.rate]

    def divisors(self) -> list[torch.Tensor]:
        """Return an empty list: AdamW's updates are not limited."""
        return []
