"""Apollo: an optimizer with the moments of AdamW on a random projection of each gradient.

Written from arXiv 2412.05270 (Algorithm 1, section 4). A 2-D weight's gradient G is projected on its smaller side
to R, of rank r; Adam's moments live on R; how much Adam would have scaled each channel of R is how much the same
channel of G is scaled. Everything else gets AdamW.

Invariant: the state is the moments, a step count and the last update's norm for each tensor, and one seed:
projections are drawn anew from it, so the state written and read back continues bit for bit. `propose` writes no
weight. Knows no loss and no file; the arithmetic is in `batches.py` and, compiled, in `kernel.c`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from agents.trainer.apollo import kernel
from agents.trainer.apollo import state as optimizer_state
from agents.trainer.apollo.batches import Batch, GroupHyperparams, Matrices, Others, ParamStep
from agents.trainer.apollo.projection import Kind, Projection, draw, is_matrix
from agents.trainer.apollo.seeds import derive
from agents.trainer.messages import DEFAULT_RANK as DEFAULT_RANK
from agents.trainer.messages import NORM_GROWTH_LIMIT, PROJECTION_REFRESH
from corpus.errors import TrainerFault

TOGETHER_BYTES = {"cpu": 1 << 20}
"""Gradients in float32 that go through together, by device: a copy is made of them, which a CPU feels."""
TOGETHER_ELSEWHERE_BYTES = 256 << 20


class Apollo(torch.optim.Optimizer):
    """Apollo for 2-D weights (rank 1: Apollo-Mini), AdamW for the rest.

    lr: learning rate. rank: of the projection, at most a matrix' smaller side. betas, eps: Adam's. weight_decay:
    decoupled. warmup_steps: over which the rate rises to lr. scale: alpha; None for sqrt(n / rank), n the smaller
    side. proj_refresh: steps between two projections. norm_growth_limit: gamma. projection: "gaussian", the
    paper's, or "sketch". seed: of projections and rounding. master_weights: keep bfloat16 weights in float32
    too. compiled: let the kernel take what it can. Raises TrainerFault for weights of any type but float32 and
    bfloat16. All but `compiled` may differ between parameter groups.
    """

    def __init__(
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
        """Computed by `propose` and not made yet."""
        self._divisors: list[torch.Tensor] = []

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy draws its own projections."""
        super().__setstate__(state)
        self.__dict__.setdefault("_compiled", True)
        self._projections, self._batches, self._divisors = {}, [], []

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """See torch; refuses settings that no step could be made with."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if group["projection"] not in ("gaussian", "sketch"):
            raise TrainerFault(f"there is no projection {group['projection']!r}: choose gaussian or sketch")
        if (
            group["lr"] < 0
            or group["rank"] < 1
            or group["proj_refresh"] < 1
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
        """All of them, in order."""
        return [parameter for parameter, _ in self._owned()]

    @property
    def seed(self) -> int:
        """Of projections and rounding."""
        seed: int = self.param_groups[0]["seed"]
        return seed

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
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
        """Advance the moments and compute every update; returns the norm of all of them together, a scalar."""
        self._batches = self._gather()
        for batch in self._batches:
            batch.measure()
        self._divisors = [part for batch in self._batches for part in batch.divisors()]
        norms = [norm.to(self.parameters[0].device) for batch in self._batches for norm in batch.norms()]
        return torch.linalg.vector_norm(torch.cat(norms)) if norms else torch.zeros(())

    @torch.no_grad()
    def apply(self) -> None:
        """Make the updates that `propose` computed, in place."""
        for batch in self._batches:
            batch.apply()
        self._batches = []  # they hold the gradients, which may go now

    @property
    def limiter_divisor(self) -> float:
        """The most that the norm-growth limiter divided any update of the last step by; 1 for nothing."""
        return max((float(part.max()) for part in self._divisors), default=1.0)

    def reset_limiter(self) -> None:
        """Forget the last updates' norms: the next step is limited by nothing."""
        for state in self.state.values():
            if "norm" in state:
                state["norm"].zero_()

    def projection(self, parameter: torch.Tensor) -> torch.Tensor:
        """The projection (rank, n) in use for this matrix, float32; before the first step, that of the first."""
        group = next(group for other, group in self._owned() if other is parameter)
        step = max(1, int(self.state[parameter].get("step", 0))) if parameter in self.state else 1
        return self._drawn(parameter, group, step).matrix.clone()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See torch, which would make moments and masters as coarse as the weights: here they stay float32."""
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
        """The whole state as named tensors, for parameters of these names in the optimizer's order."""
        return optimizer_state.export(list(self._owned()), names, self.state)

    def import_state(self, names: Sequence[str], tensors: Mapping[str, torch.Tensor]) -> None:
        """Continue from what `export_state` gave; this optimizer's own settings stay, but for the seed."""
        loaded = optimizer_state.load(list(self._owned()), names, tensors)
        self.state.clear()
        self.state.update(loaded)
        for group in self.param_groups:
            group["seed"] = int(tensors["seed"])
        self._projections.clear()

    def fits(self, names: Sequence[str], tensors: Mapping[str, torch.Tensor]) -> bool:
        """Whether `import_state` would take this state."""
        return optimizer_state.fits(list(self._owned()), names, tensors)

    def state_bytes(self) -> int:
        """Bytes that the state takes once every parameter was trained, about."""
        return optimizer_state.nbytes(list(self._owned()))

    def _owned(self) -> Iterator[tuple[torch.Tensor, dict[str, Any]]]:
        """Every parameter with its group."""
        return ((parameter, group) for group in self.param_groups for parameter in group["params"])

    def _drawn(self, parameter: torch.Tensor, group: dict[str, Any], step: int) -> Projection:
        """P for this step: shared by all matrices of this width, drawn anew every `proj_refresh` steps."""
        n, refresh = min(parameter.shape), (step - 1) // group["proj_refresh"]
        width = (group["projection"], min(group["rank"], n), n, group["seed"], parameter.device)
        found = self._projections.get((*width, refresh))
        if found is None:
            self._projections.pop((*width, refresh - 1), None)
            kind, rank, _, seed, device = width
            found = draw(kind, rank, n, seed=seed, refresh=refresh, device=device)
            self._projections[(*width, refresh)] = found
        return found

    def _terms(self, group: dict[str, Any], step: int) -> GroupHyperparams:
        """What this group's parameters have in common in their step of this number."""
        beta1, beta2 = group["betas"]
        rate = group["lr"] * min(1.0, step / max(1, group["warmup_steps"]))
        return GroupHyperparams(
            betas=group["betas"],
            eps=group["eps"],
            # Adam's bias correction, in the step size: the moments themselves stay uncorrected.
            rate=rate * math.sqrt(1 - beta2**step) / (1 - beta1**step),
            decay=1 - rate * group["weight_decay"],
            tensor_wise=group["rank"] == 1,
            growth_limit=group["norm_growth_limit"],
        )

    def _shares(self) -> Iterator[ParamStep]:
        """The part of every parameter that has a gradient in its next step, which is counted."""
        terms: dict[tuple[int, int], GroupHyperparams] = {}
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
            if of not in terms:
                terms[of] = self._terms(group, step)
            drawn, alpha = None, 1.0
            if is_matrix(parameter):
                drawn = self._drawn(parameter, group, step)
                alpha = drawn.alpha if group["scale"] is None else group["scale"]
            key = derive(group["seed"], "rounding", index, step) if parameter.dtype == torch.bfloat16 else 0
            yield ParamStep(parameter, gradient.detach(), state, terms[of], key, drawn, alpha)

    def _gather(self) -> list[Batch]:
        """Everything that has a gradient, in batches that go through together."""
        compiled: list[ParamStep] = []
        alike: dict[tuple[Any, ...], list[ParamStep]] = {}
        for share in self._shares():
            if share.projection is not None and self._compiled and kernel.suits(share):
                compiled.append(share)
                continue
            parameter = share.parameter
            shape = None if share.projection is None else tuple(parameter.shape)
            alike.setdefault((shape, parameter.dtype, parameter.device, id(share.terms)), []).append(share)
        batches: list[Batch] = [kernel.CompiledMatrices(compiled)] if compiled else []
        for (shape, _, device, _), shares in alike.items():
            together = TOGETHER_BYTES.get(device.type, TOGETHER_ELSEWHERE_BYTES)
            size = max(1, together // (4 * math.prod(shape))) if shape else len(shares)
            kind = Matrices if shape else Others
            batches += [kind(shares[start : start + size]) for start in range(0, len(shares), size)]
        return batches
