"""Apollo: an optimizer with the moments of AdamW on a random projection of each gradient.

Written from arXiv 2412.05270 (Algorithm 1, section 4). A 2-D weight's gradient G (n, c), its smaller side n
first, is projected to R = P G (r, c); Adam's moments live on R; how much Adam would have scaled each of the c
channels of R is how much the same channel of G is scaled. Everything else gets AdamW.

Invariant: the state is the moments, a step count and the last update's norm for each tensor, and one seed:
projections are made anew from it, so the state written and read back continues bit for bit. `propose`
writes no weight. Knows no loss and no file.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from agents.trainer.rounding import stochastic_round
from agents.trainer.seeds import derive
from corpus.errors import TrainerFault

DEFAULT_RANK = 64
"""Rows of the projection."""
NORM_GROWTH_LIMIT = 1.01
"""How much larger an update may be than the one before it (gamma of the paper's section 4)."""
PROJECTION_REFRESH = 200
"""Steps after which a new projection is drawn."""
_NAMES = (
    "rank",
    "betas",
    "eps",
    "weight_decay",
    "warmup_steps",
    "scale",
    "proj_refresh",
    "norm_growth_limit",
)


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """One tensor's update, computed and not yet made: `weight -= factor * direction`."""

    parameter: torch.Tensor
    direction: torch.Tensor
    """Float32, in the parameter's shape."""
    factor: torch.Tensor | float
    """Broadcasts over `direction`: the learning rate and, for a matrix, the scale of each channel."""
    norm: float
    """Euclidean norm of factor * direction."""
    decay: float
    """What the weight is multiplied by first (decoupled weight decay)."""
    key: int
    """Of the stochastic rounding, for a bfloat16 weight."""


class Apollo(torch.optim.Optimizer):
    """Apollo for 2-D weights (rank 1: Apollo-Mini), AdamW for the rest."""

    def __init__(
        self,
        params: Iterable[torch.Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        rank: int = DEFAULT_RANK,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        scale: float | None = None,
        proj_refresh: int = PROJECTION_REFRESH,
        norm_growth_limit: float = NORM_GROWTH_LIMIT,
        seed: int = 0,
    ) -> None:
        defaults = {"lr": lr, "rank": rank, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        defaults |= {"warmup_steps": warmup_steps, "scale": scale, "proj_refresh": proj_refresh}
        defaults |= {"norm_growth_limit": norm_growth_limit}
        super().__init__(params, defaults)
        self.seed = seed
        self.parameters = [p for group in self.param_groups for p in group["params"]]
        self._groups = {p: group for group in self.param_groups for p in group["params"]}
        self._projections: dict[int, tuple[int, torch.Tensor]] = {}
        self._proposals: list[Proposal] = []
        for parameter in self.parameters:
            if parameter.dtype not in (torch.float32, torch.bfloat16):
                raise TrainerFault(f"{parameter.dtype} weights cannot be trained; serve float32 or bfloat16")

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.propose()
        self.apply()
        return loss

    @torch.no_grad()
    def propose(self) -> float:
        """Advance the moments and compute every update; returns the norm of all of them together."""
        self._proposals = [
            self._proposal(index, parameter)
            for index, parameter in enumerate(self.parameters)
            if parameter.grad is not None
        ]
        return math.sqrt(math.fsum(proposal.norm**2 for proposal in self._proposals))

    @torch.no_grad()
    def apply(self) -> None:
        """Make the updates that `propose` computed, in place."""
        for proposal in self._proposals:
            weight = proposal.parameter
            update = proposal.direction * proposal.factor
            if weight.dtype == torch.bfloat16:
                exact = weight.to(torch.float32).mul_(proposal.decay).sub_(update)
                weight.copy_(stochastic_round(exact, proposal.key))
            else:
                weight.mul_(proposal.decay).sub_(update)
        self._proposals = []

    def projection(self, parameter: torch.Tensor) -> torch.Tensor:
        """The projection (rank, n) in use for this matrix, float32: entries from N(0, 1/rank)."""
        index = next(i for i, other in enumerate(self.parameters) if other is parameter)
        step = max(1, int(self.state[parameter].get("step", 0)))
        return self._projection(index, parameter, step)

    def export_state(self, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """The whole state as named tensors, for parameters of these names in the optimizer's order."""
        self._check_names(names)
        settings = [{"lr": group["lr"], **{key: group[key] for key in _NAMES}} for group in self.param_groups]
        text = json.dumps(settings, sort_keys=True).encode()
        exported = {
            "seed": torch.tensor(self.seed, dtype=torch.int64),
            "settings": torch.tensor(list(text), dtype=torch.uint8),
        }
        for name, parameter in zip(names, self.parameters, strict=True):
            state = self.state.get(parameter)
            if not state:
                continue
            exported[f"moment1.{name}"] = state["moment1"].clone()
            exported[f"moment2.{name}"] = state["moment2"].clone()
            exported[f"step.{name}"] = torch.tensor(state["step"], dtype=torch.int64)
            exported[f"norm.{name}"] = torch.tensor(state["norm"], dtype=torch.float64)
        return exported

    def import_state(self, names: Sequence[str], tensors: Mapping[str, torch.Tensor]) -> None:
        """Continue from what `export_state` gave; this optimizer's own settings stay."""
        self._check_names(names)
        loaded: dict[torch.Tensor, dict[str, Any]] = {}
        if not self.fits(names, tensors):
            raise TrainerFault(
                "this optimizer state was made with another rank or for another model; "
                "set the rank that it was made with, or start without the state"
            )
        for name, parameter in zip(names, self.parameters, strict=True):
            if f"step.{name}" not in tensors:
                continue
            moments = [tensors[f"moment{order}.{name}"] for order in (1, 2)]
            loaded[parameter] = {
                "moment1": moments[0].to(parameter.device, copy=True),
                "moment2": moments[1].to(parameter.device, copy=True),
                "step": int(tensors[f"step.{name}"]),
                "norm": float(tensors[f"norm.{name}"]),
            }
        self.seed = int(tensors["seed"])
        self._projections.clear()
        self.state.clear()
        self.state.update(loaded)

    def fits(self, names: Sequence[str], tensors: Mapping[str, torch.Tensor]) -> bool:
        """Whether this state's moments have the shapes that the parameters and the rank ask for."""
        shapes = {name: self._moment_shape(p) for name, p in zip(names, self.parameters, strict=True)}
        moments = {key: tensor.shape for key, tensor in tensors.items() if key.startswith("moment")}
        return all(shapes.get(key.partition(".")[2]) == shape for key, shape in moments.items())

    def state_bytes(self) -> int:
        """Bytes that the exported state takes, about."""
        return sum(8 * self._moment_shape(parameter).numel() for parameter in self.parameters)

    def _check_names(self, names: Sequence[str]) -> None:
        if len(names) != len(self.parameters) or len(set(names)) != len(names):
            raise ValueError("one name for each parameter, no name twice")

    def _moment_shape(self, parameter: torch.Tensor) -> torch.Size:
        if parameter.dim() != 2:
            return parameter.shape
        rank = min(self._groups[parameter]["rank"], min(parameter.shape))
        return torch.Size((rank, max(parameter.shape)))

    def _projection(self, index: int, parameter: torch.Tensor, step: int) -> torch.Tensor:
        """P (r, n) for this step: drawn from the seed, the matrix' index and how often it was refreshed."""
        group = self._groups[parameter]
        refresh = (step - 1) // group["proj_refresh"]
        if index not in self._projections or self._projections[index][0] != refresh:
            n = min(parameter.shape)
            rank = min(group["rank"], n)
            # On the CPU, whatever the device of the weights: the same seed is the same matrix everywhere.
            generator = torch.Generator().manual_seed(derive(self.seed, "projection", index, refresh))
            drawn = torch.randn(rank, n, generator=generator) / math.sqrt(rank)
            self._projections[index] = (refresh, drawn.to(parameter.device))
        return self._projections[index][1]

    def _proposal(self, index: int, parameter: torch.Tensor) -> Proposal:
        group = self._groups[parameter]
        state = self.state[parameter]
        if not state:
            zeros = torch.zeros(self._moment_shape(parameter), device=parameter.device)
            state.update(moment1=zeros, moment2=zeros.clone(), step=0, norm=0.0)
        state["step"] += 1
        step: int = state["step"]
        rate = group["lr"] * min(1.0, step / max(1, group["warmup_steps"]))
        beta1, beta2 = group["betas"]
        # Adam's bias correction, in the step size: the moments themselves stay uncorrected.
        corrected = rate * math.sqrt(1 - beta2**step) / (1 - beta1**step)
        assert parameter.grad is not None
        gradient = parameter.grad.detach().to(torch.float32)
        common = {
            "parameter": parameter,
            "decay": 1 - rate * group["weight_decay"],
            "key": derive(self.seed, "rounding", index, step),
        }
        if parameter.dim() != 2:
            direction = _adam(state, gradient, group)
            norm = corrected * float(torch.linalg.vector_norm(direction))
            return Proposal(direction=direction, factor=corrected, norm=norm, **common)
        scales, norm = self._scales(index, parameter, gradient, state)
        factor = corrected * (scales[:, None] if _rows_are_channels(parameter) else scales[None, :])
        return Proposal(direction=gradient, factor=factor, norm=corrected * norm, **common)

    def _scales(
        self, index: int, parameter: torch.Tensor, gradient: torch.Tensor, state: dict[str, Any]
    ) -> tuple[torch.Tensor, float]:
        """The scale of each channel (c,), limited, and the norm of the scaled gradient."""
        group = self._groups[parameter]
        oriented = gradient.T if _rows_are_channels(parameter) else gradient  # (n, c)
        projection = self._projection(index, parameter, state["step"])
        rank, n = projection.shape
        projected = projection @ oriented  # R (r, c)
        adapted = _adam(state, projected, group)  # R~ (r, c)
        # Algorithm 1: s_j = |R~_j| / |R_j| for each channel; one s in all at rank 1 (section 4.2).
        dims = (0, 1) if rank == 1 else (0,)
        before = torch.linalg.vector_norm(projected, dim=dims)
        after = torch.linalg.vector_norm(adapted, dim=dims)
        scales = torch.where(before > 0, after / before, torch.zeros_like(before)).expand(oriented.shape[1])
        alpha = math.sqrt(n / rank) if group["scale"] is None else group["scale"]
        scales = scales * alpha
        lengths = torch.linalg.vector_norm(oriented, dim=0)
        norm = float(torch.linalg.vector_norm(scales * lengths))
        ceiling = group["norm_growth_limit"] * state["norm"]
        # Norm-growth limiter: |G~_t| <= gamma |G~_t-1|. A zero norm is never stored: after one gradient of
        # zeros the ceiling would be zero and the matrix would never move again.
        if state["norm"] > 0 and norm > ceiling:
            scales, norm = scales * (ceiling / norm), ceiling
        if norm > 0 and math.isfinite(norm):
            state["norm"] = norm
        return scales, norm


def _rows_are_channels(parameter: torch.Tensor) -> bool:
    """Whether dimension 1 is the smaller side, which is projected; a square is projected on dimension 0."""
    return parameter.shape[0] > parameter.shape[1]


def _adam(state: dict[str, Any], gradient: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
    """Advance the moments by this gradient; returns M / (sqrt(V) + eps), uncorrected."""
    beta1, beta2 = group["betas"]
    state["moment1"].mul_(beta1).add_(gradient, alpha=1 - beta1)
    state["moment2"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    adapted: torch.Tensor = state["moment1"] / (state["moment2"].sqrt() + group["eps"])
    return adapted
