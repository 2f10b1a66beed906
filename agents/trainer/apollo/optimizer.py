"""Apollo: an optimizer with the moments of AdamW on a random projection of each gradient.

Written from arXiv 2412.05270 (Algorithm 1, section 4). The gradient G of a 2-D weight is projected on its
smaller side to R, of rank r. Adam's moments are kept for R only. Each channel of G is scaled as Adam scales
the same channel of R. All other parameters are updated by AdamW.

Invariant: the state is the moments, a step count and the last update's norm for each tensor, and one seed for
all projections. So a state that was saved and loaded continues bit for bit. `propose` writes no weight. This
module knows nothing about losses or files; the arithmetic is in `step.py` and, compiled, in `kernel.c`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from agents.trainer.apollo import kernel
from agents.trainer.apollo import state as optimizer_state
from agents.trainer.apollo.projection import Kind, Projection, draw, is_matrix
from agents.trainer.apollo.rounding import derive_seed
from agents.trainer.apollo.step import AdamWBatch, Batch, GroupHyperparams, MatrixBatch, ParamStep
from agents.trainer.messages import DEFAULT_RANK, NORM_GROWTH_LIMIT, PROJECTION_REFRESH
from corpus.errors import TrainerFault

TOGETHER_BYTES = {"cpu": 1 << 20}
"""By type of device: most bytes of float32 gradients whose steps are computed together, from a copy."""
TOGETHER_DEFAULT_BYTES = 256 << 20
"""The number of bytes in `TOGETHER_BYTES` for every other type of device."""


class Apollo(torch.optim.Optimizer):
    """Apollo for 2-D weights (rank 1: Apollo-Mini), AdamW for the rest.

    All arguments except `compiled` may differ between parameter groups.

    Args:
        params: Parameters or groups, as for every optimizer of torch.
        lr: Learning rate.
        rank: Rank of the projection; a matrix whose smaller side is less uses that side.
        betas: Decay rates of Adam's two moments.
        eps: Number that Adam adds to the denominator.
        weight_decay: Decoupled weight decay, as in AdamW.
        warmup_steps: Steps over which the rate rises to `lr`.
        scale: Alpha, the factor on a matrix's update; None for sqrt(n / rank), where n is the smaller side.
        proj_refresh: Number of steps after which a new projection is drawn.
        norm_growth_limit: Gamma: largest ratio of a step's norm to the norm of the step before.
        projection: Kind of projection: "gaussian", as in the paper, or "sketch".
        seed: Seed of projections and rounding.
        master_weights: Whether to keep float32 copies of bfloat16 weights.
        compiled: Whether to use the compiled kernel where possible.

    Raises:
        TrainerFault: Weights are neither float32 nor bfloat16, or a setting is out of range.
    """

    def __init__(  # noqa: PLR0913, PLR0917 (torch: settings of an optimizer are plain arguments)
        self,
        params: Iterable[torch.Tensor] | Iterable[dict[str, Any]],
        lr: float,
        rank: int = DEFAULT_RANK,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        scale: float | None = None,
        proj_refresh: int = PROJECTION_REFRESH,
        norm_growth_limit: float = NORM_GROWTH_LIMIT,
        projection: Kind = "gaussian",
        seed: int = 0,
        *,
        master_weights: bool = False,
        compiled: bool = True,
    ) -> None:
        defaults = {"lr": lr, "rank": rank, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        defaults |= {"warmup_steps": warmup_steps, "scale": scale, "proj_refresh": proj_refresh}
        defaults |= {"norm_growth_limit": norm_growth_limit, "projection": projection, "seed": seed}
        super().__init__(params, defaults | {"master_weights": master_weights})
        self._compiled = compiled
        self._projections: dict[tuple[Any, ...], Projection] = {}
        self._batches: list[Batch] = []
        """The updates that `propose` computed and `apply` has not applied yet."""
        self._divisors: list[torch.Tensor] = []

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copied optimizer, without the original's cached projections and measured updates."""
        super().__setstate__(state)
        self.__dict__.setdefault("_compiled", True)
        self._projections, self._batches, self._divisors = {}, [], []

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group (see torch); raise TrainerFault if one of its settings is out of range."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if group["projection"] not in ("gaussian", "sketch"):
            raise TrainerFault(f"there is no projection {group['projection']!r}: choose gaussian or sketch")
        if (
            group["lr"] < 0
            or min(group["rank"], group["proj_refresh"]) < 1
            or group["norm_growth_limit"] <= 0
        ):
            raise TrainerFault(
                "lr must be at least 0, rank and proj_refresh at least 1, norm_growth_limit above 0"
            )
        for parameter in group["params"]:
            if parameter.dtype not in (torch.float32, torch.bfloat16):
                raise TrainerFault(f"{parameter.dtype} weights cannot be trained; serve float32 or bfloat16")

    @property
    def parameters(self) -> list[torch.Tensor]:
        """All parameters, in order."""
        return [parameter for parameter, _ in self._owned()]

    @property
    def seed(self) -> int:
        """The seed of projections and rounding."""
        seed: int = self.param_groups[0]["seed"]
        return seed

    @property
    def lr(self) -> float:
        """The learning rate of the first group, without warm-up; setting it sets that of all groups."""
        lr: float = self.param_groups[0]["lr"]
        return lr

    @lr.setter
    def lr(self, lr: float) -> None:
        for group in self.param_groups:
            group["lr"] = lr

    @property
    def step_rate(self) -> float:
        """The learning rate of the last step that was computed, with warm-up; 0 before any step."""
        steps = (_warmed(group, self.state[p]["step"]) for p, group in self._owned() if p in self.state)
        return next(steps, 0.0)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient; return the closure's loss, if there is a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        batches = self._gather()
        for batch in batches:
            batch.step()
        self._divisors = [part for batch in batches for part in batch.divisors()]
        return loss

    @torch.no_grad()
    def propose(self) -> torch.Tensor:
        """Advance the moments and compute every update; return the norm of all updates together, a scalar."""
        self._batches = self._gather()
        for batch in self._batches:
            batch.measure()
        self._divisors = [part for batch in self._batches for part in batch.divisors()]
        norms = [norm.to(self.parameters[0].device) for batch in self._batches for norm in batch.norms()]
        return torch.linalg.vector_norm(torch.cat(norms)) if norms else torch.zeros(())

    @torch.no_grad()
    def apply(self) -> None:
        """Apply the updates that `propose` computed, in place."""
        for batch in self._batches:
            batch.apply()
        self._batches = []  # the batches hold the gradients, which may be freed now

    @property
    def limiter_divisor(self) -> float:
        """The largest divisor of the norm-growth limiter in the last step; 1: nothing was limited."""
        return max((float(part.max()) for part in self._divisors), default=1.0)

    def reset_limiter(self) -> None:
        """Forget the last updates' norms, so that nothing limits the next step."""
        for state in self.state.values():
            if "norm" in state:
                state["norm"].zero_()

    def projection(self, parameter: torch.Tensor) -> torch.Tensor:
        """Return this matrix's projection, (rank, n) float32: the last step's or, before any, the first's."""
        group = next(group for other, group in self._owned() if other is parameter)
        step = max(1, int(self.state[parameter].get("step", 0))) if parameter in self.state else 1
        return self._drawn(parameter, group, step).matrix.clone()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state (see torch); moments and masters stay float32, where torch would cast them."""
        super().load_state_dict(state_dict)
        given = [index for group in state_dict["param_groups"] for index in group["params"]]
        for index, parameter in zip(given, self.parameters, strict=True):
            for name, value in state_dict["state"].get(index, {}).items():
                if isinstance(value, torch.Tensor):
                    self.state[parameter][name] = value.detach().to(
                        parameter.device, torch.float32, copy=True
                    )
        self._projections.clear()

    def export_state(self, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return the whole state as named tensors; `names`: a name for each parameter, in order."""
        return optimizer_state.export(list(self._owned()), names, self.state)

    def import_state(self, names: Sequence[str], tensors: Mapping[str, torch.Tensor]) -> None:
        """Continue from an exported state. Only the seed is taken from it; all other settings stay."""
        loaded = optimizer_state.load(list(self._owned()), names, tensors)
        self.state.clear()
        self.state.update(loaded)
        for group in self.param_groups:
            group["seed"] = int(tensors["seed"])
        self._projections.clear()

    def fits(self, names: Sequence[str], tensors: Mapping[str, torch.Tensor]) -> bool:
        """Return whether `import_state` would accept this state."""
        return optimizer_state.fits(list(self._owned()), names, tensors)

    def state_bytes(self) -> int:
        """Return about how many bytes the state takes once every parameter has been trained."""
        return optimizer_state.nbytes(list(self._owned()))

    def _owned(self) -> Iterator[tuple[torch.Tensor, dict[str, Any]]]:
        """Iterate over every parameter with its group."""
        return ((parameter, group) for group in self.param_groups for parameter in group["params"])

    def _drawn(self, parameter: torch.Tensor, group: dict[str, Any], step: int) -> Projection:
        """Return the projection for this step, which matrices of one smaller side share until a refresh."""
        n, refresh = min(parameter.shape), (step - 1) // group["proj_refresh"]
        width = (group["projection"], min(group["rank"], n), n, group["seed"], parameter.device)
        projection = self._projections.get((*width, refresh))
        if projection is None:
            self._projections.pop((*width, refresh - 1), None)
            kind, rank, _, seed, device = width
            projection = draw(kind, rank, n, seed=seed, refresh=refresh, device=device)
            self._projections[(*width, refresh)] = projection
        return projection

    def _hyperparams(self, group: dict[str, Any], step: int) -> GroupHyperparams:
        """Return the values that the group's parameters share in step number `step`."""
        beta1, beta2 = group["betas"]
        rate = _warmed(group, step)
        return GroupHyperparams(
            betas=group["betas"],
            eps=group["eps"],
            # Adam's bias correction is a factor of the step size; the moments themselves stay uncorrected.
            rate=rate * math.sqrt(1 - beta2**step) / (1 - beta1**step),
            decay=1 - rate * group["weight_decay"],
            tensor_wise=group["rank"] == 1,
            growth_limit=group["norm_growth_limit"],
        )

    def _param_steps(self) -> Iterator[ParamStep]:
        """Yield the next step of every parameter that has a gradient, and count the step."""
        hyperparams: dict[tuple[int, int], GroupHyperparams] = {}
        for index, (parameter, group) in enumerate(self._owned()):
            gradient = parameter.grad
            if gradient is None:
                continue
            if gradient.layout != torch.strided:
                raise TrainerFault("sparse gradients cannot be projected; make the embedding a dense one")
            state = self.state[parameter]
            if not state:
                state.update(optimizer_state.fresh(parameter, group))
            state["step"] = step = state["step"] + 1
            of = (id(group), step)
            if of not in hyperparams:
                hyperparams[of] = self._hyperparams(group, step)
            drawn, alpha = None, 1.0
            if is_matrix(parameter):
                drawn = self._drawn(parameter, group, step)
                alpha = drawn.alpha if group["scale"] is None else group["scale"]
            rounds = parameter.dtype == torch.bfloat16
            key = derive_seed(group["seed"], "rounding", index, step) if rounds else 0
            yield ParamStep(parameter, gradient.detach(), state, hyperparams[of], key, drawn, alpha)

    def _gather(self) -> list[Batch]:
        """Return the next step of every parameter that has a gradient, in batches to compute together."""
        compiled: list[ParamStep] = []
        alike: dict[tuple[Any, ...], list[ParamStep]] = {}
        for step in self._param_steps():
            if step.projection is not None and self._compiled and kernel.suits(step):
                compiled.append(step)
                continue
            parameter = step.parameter
            shape = None if step.projection is None else tuple(parameter.shape)
            alike.setdefault((shape, parameter.dtype, parameter.device, id(step.group)), []).append(step)
        batches: list[Batch] = [kernel.CompiledBatch(compiled)] if compiled else []
        for (shape, _, device, _), steps in alike.items():
            together = TOGETHER_BYTES.get(device.type, TOGETHER_DEFAULT_BYTES)
            size = max(1, together // (4 * math.prod(shape))) if shape else len(steps)
            kind = MatrixBatch if shape else AdamWBatch
            batches += [kind(steps[start : start + size]) for start in range(0, len(steps), size)]
        return batches


def _warmed(group: Mapping[str, Any], step: int) -> float:
    """Return the group's learning rate in step number `step`, with warm-up."""
    rate: float = group["lr"] * min(1.0, step / max(1, group["warmup_steps"]))
    return rate
