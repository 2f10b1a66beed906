"""Runs one update: trains a parent checkpoint on a fixed list of examples, in the shared weights.

Invariant: the result depends on the parent, the examples, the settings and the seed alone. The optimizer's
state comes from the parent's checkpoint and from nowhere else. A step that is too large or not finite is
refused. After any failure the shared weights are the parent's again. A dry run writes nothing. This module
knows nothing about the socket or the ledger.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from agents.model.weights.shared import SharedWeights
from agents.model.weights.snapshot import from_raw, restore, to_raw
from agents.trainer.apollo.optimizer import Apollo
from agents.trainer.apollo.rounding import derive_seed
from agents.trainer.messages import Example, Settings, StepReport, TrainRequest, TrainResult
from agents.trainer.scoring import prefix_scoring
from agents.trainer.scoring.compute import resolve
from agents.trainer.scoring.residual_stream import steered
from agents.trainer.update import memory, rates
from agents.trainer.update.objective import loss_of, reference_point, with_references
from corpus.errors import StepRefused, TrainerFault
from store.checkpoints.store import CheckpointStore
from store.files.failpoints import reach
from store.tensors.raw import RawTensor

Report = Callable[[StepReport], None]
Check = Callable[[], None]
Origin = Literal["continued", "fresh"]
"""Whether the optimizer's state is continued from the parent or new."""


@dataclass(frozen=True, kw_only=True)
class TrainerContext:
    """The shared weights, the model on them, and the checkpoints."""

    shared: SharedWeights
    model: Any
    """The `PreTrainedModel` whose parameters are the shared weights."""
    store: CheckpointStore

    def names(self) -> list[str]:
        """Return the names of the parameters in the model's order; tied parameters have one name."""
        return [name for name, _ in self.model.named_parameters()]

    def require_current_mapping(self) -> None:
        """Raise TrainerFault if the server has replaced the shared weights since they were attached."""
        if self.shared.replaced:
            raise TrainerFault("the server has made new shared weights; restart the trainer")


def run_update(
    context: TrainerContext, request: TrainRequest, report: Report, check: Check
) -> tuple[TrainResult, dict[str, RawTensor]]:
    """Run the update in the shared weights; return the result and the optimizer's state after it.

    `report` is called with the report on each step. `check` is called before each pass: it waits while the
    update is paused, and raises an error if the update must end.
    """
    shared, parent, request = context.shared, request.parent, _resolved(context, request)
    context.require_current_mapping()
    prefix_scoring.check(context.model)
    clean = shared.holds == parent and not shared.dirty
    restore(shared, context.store, parent, clean=clean)
    optimizer, origin = _optimizer(context, request)
    context.store.require_space(shared.nbytes + optimizer.state_bytes())
    _require_memory(context, request, optimizer, origin)
    try:
        result = _run(context, request, optimizer, origin, report, check)
        check()
    except BaseException:
        restore(shared, context.store, parent, clean=clean, force=True)
        raise
    return result, {name: to_raw(tensor) for name, tensor in optimizer.export_state(context.names()).items()}


def dry_run(context: TrainerContext, request: TrainRequest, report: Report, check: Check) -> TrainResult:
    """Compute every planned step at the parent's weights, change nothing, and return the result.

    The shared weights must be the parent's. The optimizer advances from step to step, so that the norm-growth
    limit has the same effect as in an update.
    """
    shared, request = context.shared, _resolved(context, request)
    if shared.replaced or shared.dirty or shared.holds != request.parent:
        raise TrainerFault(
            f"the shared weights are not {request.parent[:12]}'s undisturbed, and a dry run changes nothing; "
            "wait until the night has ended"
        )
    prefix_scoring.check(context.model)
    optimizer, origin = _optimizer(context, request)
    _require_memory(context, request, optimizer, origin)
    return _run(context, request, optimizer, origin, report, check)


def _resolved(context: TrainerContext, request: TrainRequest) -> TrainRequest:
    """Return the request with the type to compute in."""
    compute = resolve(request.settings.compute, context.model)
    return replace(request, settings=replace(request.settings, compute=compute))


def _run(
    context: TrainerContext,
    request: TrainRequest,
    optimizer: Apollo,
    origin: Origin,
    report: Report,
    check: Check,
) -> TrainResult:
    """Run all steps, report each, free the gradients, and return the result."""
    reports: list[StepReport] = []
    try:
        for step in _steps(context, request, optimizer, check):
            reports.append(step)
            report(step)
    finally:
        context.model.zero_grad(set_to_none=True)
    return TrainResult(
        steps=len(reports),
        reports=tuple(reports),
        lr=optimizer.lr,
        first_share=reports[0].metrics.get("first_share"),
        compute=resolve(request.settings.compute, context.model),
        optimizer=origin,
    )


def _optimizer(context: TrainerContext, request: TrainRequest) -> tuple[Apollo, Origin]:
    """Return an optimizer with the parent's state, or a fresh optimizer if that state does not fit."""
    optimizer = _fresh(context, request)
    stored = context.store.load_optimizer(request.parent)
    if stored is None:
        return optimizer, "fresh"
    state = {name: from_raw(raw) for name, raw in stored.items()}
    if not optimizer.fits(context.names(), state):
        return optimizer, "fresh"
    optimizer.import_state(context.names(), state)
    if request.settings.reset_limiter:
        optimizer.reset_limiter()
    return optimizer, "continued"


def _fresh(context: TrainerContext, request: TrainRequest) -> Apollo:
    """Return an optimizer without a state. Its rate is 1 if the rate is still to be found."""
    s = request.settings
    return Apollo(
        context.model.parameters(),
        1.0 if s.lr == "auto" else s.lr,
        rank=s.rank,
        betas=s.betas,
        eps=s.eps,
        weight_decay=s.weight_decay,
        warmup_steps=rates.warmup_steps(s),
        scale=s.scale,
        proj_refresh=s.proj_refresh,
        norm_growth_limit=s.norm_growth_limit,
        projection=s.projection,
        master_weights=s.master_weights,
        seed=derive_seed(request.seed, "optimizer"),
    )


def _require_memory(
    context: TrainerContext, request: TrainRequest, optimizer: Apollo, origin: Origin
) -> None:
    """Raise GateRefused if the update does not fit into memory.

    A continued optimizer state is in memory already, so only a fresh state is added to the estimate. A
    rate is found with a fresh state too.
    """
    missing = optimizer.state_bytes() if origin == "fresh" or request.settings.lr == "auto" else 0
    memory.require_memory(context.model, request.settings, request.examples, missing)


def _steps(
    context: TrainerContext, request: TrainRequest, optimizer: Apollo, check: Check
) -> Iterator[StepReport]:
    """Yield a report on each step after it is made (or, in a dry run, computed).

    Raises:
        StepRefused: a step is too large or not finite, and was not made.
    """
    settings, shared = request.settings, context.shared
    examples = with_references(context.model, request)
    steps = settings.epochs * math.ceil(len(examples) / settings.batch_size)
    weight_norm = _norm([p.detach() for p in context.model.parameters()])
    for number, batch in enumerate(plan(len(examples), settings, request.seed), start=1):
        check()  # before `started`: a pause is not part of the step's time
        started = time.monotonic()
        rows = [examples[i] for i in batch]
        with steered(context.model, request.prevent):
            metrics = _gradients(context.model, request, rows, number, check)
        if number == 1:
            metrics |= _set_rate(context, request, optimizer, weight_norm)
        update_norm = _finite(number, "update", float(optimizer.propose()))
        divisor = _finite(number, "limiter's divisor", optimizer.limiter_divisor)
        ratio = update_norm / weight_norm
        if ratio > settings.norm_cap:
            raise StepRefused(
                f"step {number}: the update is {ratio:.3g} of the weights' norm, over norm_cap "
                f"{settings.norm_cap:g}; nothing was kept: lower the learning rate"
            )
        if not request.dry_run:
            with shared.lock.write_lock():
                shared.dirty = True
                shared.holds = ""
                reach("update", "marked")
                optimizer.apply()
                reach("update", "applied")
                shared.bump()
        metrics |= {
            "lr": optimizer.step_rate,
            "update_norm": update_norm,
            "update_ratio": ratio,
            "limiter_divisor": divisor,
        }
        tokens = sum(len(row.context) + len(row.chosen) + len(row.rejected) for row in rows)
        metrics["tokens_per_second"] = tokens / max(time.monotonic() - started, 1e-9)
        yield StepReport(step=number, steps=steps, metrics=metrics)


def _set_rate(
    context: TrainerContext, request: TrainRequest, optimizer: Apollo, weight_norm: float
) -> dict[str, float]:
    """Set the optimizer's rate if it is to be found from the gradients at hand; return the step's metrics."""
    settings = request.settings
    if settings.lr != "auto":
        return {}
    probe = _fresh(context, replace(request, settings=replace(settings, lr=1.0, warmup_steps=0)))
    at_one = float(probe.propose()) / weight_norm
    rate = rates.rate_for(at_one)
    optimizer.lr = rate
    return {"first_share": rate * at_one}


def _gradients(
    model: Any, request: TrainRequest, rows: Sequence[Example], step: int, check: Check
) -> dict[str, float]:
    """Add up the gradients of a step's passes in the parameters; return the step's metrics."""
    model.zero_grad(set_to_none=True)
    metrics: dict[str, float] = {}
    objective, settings = request.objective, request.settings
    point = reference_point(model, settings, rows) if objective == "kto" else None
    for part in passes(rows, settings.micro_batch):
        check()
        loss = loss_of(model, objective, settings, part, train=True, count=len(rows), point=point)
        share = len(part) / len(rows)  # each pass counts by its number of examples
        values = {name: share * value for name, value in loss.metrics.items()}
        for name, value in {"loss": float(loss.value.detach()), **values}.items():
            metrics[name] = metrics.get(name, 0.0) + _finite(step, name, value)
        loss.value.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return {**metrics, "grad_norm": _finite(step, "gradient", _norm(gradients))}


def passes(rows: Sequence[Example], size: int) -> list[Sequence[Example]]:
    """Return a step's examples in passes of `size`, similar lengths together; size 0: all in one pass."""
    if not 0 < size < len(rows):
        return [rows]
    by_length = sorted(rows, key=lambda row: len(row.context) + max(len(row.chosen), len(row.rejected)))
    return [by_length[start : start + size] for start in range(0, len(rows), size)]


def plan(count: int, settings: Settings, seed: int) -> Iterator[list[int]]:
    """Yield the indices of each step's examples.

    Every epoch has its own order, and its last step may have fewer examples.
    """
    for epoch in range(settings.epochs):
        order = sorted(range(count), key=lambda i, epoch=epoch: derive_seed(seed, "order", epoch, i))  # type: ignore[misc]
        for start in range(0, count, settings.batch_size):
            yield order[start : start + settings.batch_size]


def _finite(step: int, what: str, value: float) -> float:
    """Return the value, or raise StepRefused if it is not finite."""
    if not math.isfinite(value):
        raise StepRefused(f"step {step}: the {what} is {value}; nothing was kept: lower the learning rate")
    return value


def _norm(tensors: Sequence[torch.Tensor]) -> float:
    """Return the Euclidean norm of all these tensors together, read from the device once."""
    return float(
        torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm(list(tensors), 2, torch.float32))))
    )
