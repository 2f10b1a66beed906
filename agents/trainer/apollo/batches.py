"""One step of Apollo in torch, on any device: matrices by Algorithm 1, everything else by AdamW.

A step has two passes: `measure` advances the moments and computes every update, `apply` writes the weights.

Invariant: nothing here waits for a GPU (no number is read back), and parameters of one shape go through together.
`measure` writes no weight. Knows no seed and no schedule: a `ParamStep` says what one parameter's part in a step is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch

from agents.trainer.apollo.projection import Projection, is_wide
from agents.trainer.apollo.rounding import stochastic_round


@dataclass(frozen=True, kw_only=True)
class GroupHyperparams:
    """What all parameters of a group have in common in one step."""

    betas: tuple[float, float]
    eps: float
    rate: float
    """Learning rate, with warm-up and Adam's bias correction."""
    decay: float
    """What a weight is multiplied by first (decoupled weight decay)."""
    tensor_wise: bool
    """One scale for a whole matrix (Mini), else one for each channel."""
    growth_limit: float


class ParamStep(NamedTuple):
    """One parameter's part in one step; a tuple, since one is made for every parameter in every step."""

    parameter: torch.Tensor
    gradient: torch.Tensor
    state: dict[str, Any]
    """moment1, moment2; of a matrix norm too (scalar, of the last update before the rate; 0: none yet); master."""
    terms: GroupHyperparams
    key: int
    """Of the stochastic rounding, for a bfloat16 weight."""
    projection: Projection | None
    """Of a matrix; None: AdamW."""
    alpha: float

    @property
    def written(self) -> torch.Tensor:
        """What the update is made in: the float32 master weights, if there are some."""
        master = self.state.get("master")
        return self.parameter if master is None else master

    def round_master(self) -> None:
        """Make the weight the nearest to its master."""
        if "master" in self.state:
            self.parameter.copy_(self.state["master"])

    def make(self, direction: torch.Tensor, factor: torch.Tensor | float) -> None:
        """weight = decay * weight - factor * direction; both broadcast, float32."""
        weight = self.written
        exact = weight if weight.dtype == torch.float32 else weight.to(torch.float32)
        if self.terms.decay != 1:
            exact.mul_(self.terms.decay)
        if isinstance(factor, float):
            exact.sub_(direction, alpha=factor)
        else:
            exact.addcmul_(direction, factor, value=-1)
        if exact is not weight:
            weight.copy_(stochastic_round(exact, self.key))
        self.round_master()


class Batch(Protocol):
    """Parameters whose step is made together."""

    def measure(self) -> None:
        """Advance the moments and compute the updates; writes no weight."""

    def apply(self) -> None:
        """Make the measured updates."""

    def step(self) -> None:
        """Both."""

    def norms(self) -> list[torch.Tensor]:
        """Euclidean norms of the measured updates, without the decay."""

    def divisors(self) -> list[torch.Tensor]:
        """What the norm-growth limiter divided each matrix' update by; 1 for nothing."""


class Matrices:
    """Matrices of one shape and one rate."""

    def __init__(self, shares: Sequence[ParamStep]) -> None:
        self._shares = shares

    def measure(self) -> None:
        """Algorithm 1 of arXiv 2412.05270, up to the weights."""
        first, terms = self._shares[0], self._shares[0].terms
        wide = is_wide(first.parameter.shape)
        assert first.projection is not None
        gradients = _stacked([share.gradient for share in self._shares]).to(torch.float32)
        projected = first.projection.project(gradients)  # R
        adapted = self._advance(projected)  # R~
        # s_j = |R~_j| / |R_j| for each channel; one s in all for Mini (section 4.2).
        across = (1, 2) if terms.tensor_wise else (1 if wide else 2,)
        before, after = _lengths(projected, across), _lengths(adapted, across)
        scales = torch.where(before > 0, first.alpha * after / before, 0.0)
        lengths = _lengths(gradients, (1 if wide else 2,))
        self._norms = _lengths(scales * lengths, (1, 2)).flatten()
        self._limit()
        self._factors = scales * (terms.rate / self._divisors)[:, None, None]

    def _advance(self, projected: torch.Tensor) -> torch.Tensor:
        """Advance the moments; returns M / (sqrt(V) + eps), uncorrected."""
        (beta1, beta2), states = self._shares[0].terms.betas, [share.state for share in self._shares]
        moment1 = (
            torch.stack([state["moment1"] for state in states]).mul_(beta1).add_(projected, alpha=1 - beta1)
        )
        moment2 = torch.stack([state["moment2"] for state in states]).mul_(beta2)
        moment2.addcmul_(projected, projected, value=1 - beta2)
        torch._foreach_copy_([state["moment1"] for state in states], list(moment1.unbind()))
        torch._foreach_copy_([state["moment2"] for state in states], list(moment2.unbind()))
        return moment1 / (moment2.sqrt_() + self._shares[0].terms.eps)

    def _limit(self) -> None:
        """The norm-growth limiter of section 4: |G~_t| <= gamma |G~_t-1|."""
        last = torch.stack([share.state["norm"] for share in self._shares])
        ceiling = self._shares[0].terms.growth_limit * last
        limited = (last > 0) & (self._norms > ceiling)
        self._divisors = torch.where(limited, self._norms / ceiling, 1.0)
        self._norms = self._norms / self._divisors
        # A zero norm is never stored: its ceiling would be zero, and the matrix would never move again.
        kept = torch.where((self._norms > 0) & torch.isfinite(self._norms), self._norms, last)
        torch._foreach_copy_([share.state["norm"] for share in self._shares], list(kept.unbind()))

    def apply(self) -> None:
        """Write the weights."""
        for share, factor in zip(self._shares, self._factors, strict=True):
            share.make(share.gradient.to(torch.float32), factor)

    def step(self) -> None:
        """Both passes."""
        self.measure()
        self.apply()

    def norms(self) -> list[torch.Tensor]:
        """(matrices,) float32."""
        return [self._norms * self._shares[0].terms.rate]

    def divisors(self) -> list[torch.Tensor]:
        """(matrices,) float32."""
        return [self._divisors]


def _lengths(tensor: torch.Tensor, across: tuple[int, ...]) -> torch.Tensor:
    """Euclidean norms across these dimensions, which stay as 1 (torch's own are some six times as slow there)."""
    return tensor.square().sum(across, keepdim=True).sqrt_()


def _stacked(tensors: list[torch.Tensor]) -> torch.Tensor:
    """(k, ...), without a copy of a single one."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(tensors)


class Others:
    """What is no matrix, by AdamW (arXiv 1711.05101), at one rate."""

    def __init__(self, shares: Sequence[ParamStep]) -> None:
        self._shares = shares

    def measure(self) -> None:
        """Advance the moments."""
        terms = self._shares[0].terms
        (beta1, beta2), eps = terms.betas, terms.eps
        moment1, moment2 = ([share.state[name] for share in self._shares] for name in ("moment1", "moment2"))
        gradients = [share.gradient.to(torch.float32) for share in self._shares]
        torch._foreach_mul_(moment1, beta1)
        torch._foreach_add_(moment1, gradients, alpha=1 - beta1)
        torch._foreach_mul_(moment2, beta2)
        torch._foreach_addcmul_(moment2, gradients, gradients, value=1 - beta2)
        below = torch._foreach_add(torch._foreach_sqrt(moment2), eps)
        self._directions = torch._foreach_div(moment1, below)

    def apply(self) -> None:
        """Write the weights."""
        for share, direction in zip(self._shares, self._directions, strict=True):
            share.make(direction, share.terms.rate)

    def step(self) -> None:
        """Both passes."""
        self.measure()
        self.apply()

    def norms(self) -> list[torch.Tensor]:
        """(tensors,) float32."""
        return [torch.stack(list(torch._foreach_norm(self._directions))) * self._shares[0].terms.rate]

    def divisors(self) -> list[torch.Tensor]:
        """None: nothing is limited."""
        return []
