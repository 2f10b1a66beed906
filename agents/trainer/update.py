"""One update: from a parent checkpoint, over a fixed list of examples, into the shared mapping.

Invariant: the result depends on the parent, the examples, the settings and the seed alone. The optimizer is
made from the parent's state and kept nowhere else. A step that is not finite or too large is refused, and
after any failure the mapping holds the parent's weights again. Knows no socket and no ledger.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from agents.model.mapping import SharedWeights
from agents.model.snapshot import from_raw, restore, to_raw
from agents.trainer import frozen
from agents.trainer.apollo import Apollo
from agents.trainer.messages import Settings, StepReport, TrainRequest, TrainResult
from agents.trainer.objective import loss_of, with_references
from agents.trainer.seeds import derive
from corpus.errors import StepRefused, TrainerFault
from store.checkpoints import CheckpointStore
from store.tensors import RawTensor

Report = Callable[[StepReport], None]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What the trainer works with."""

    shared: SharedWeights
    model: Any
    """The `PreTrainedModel` on the mapping."""
    store: CheckpointStore

    def names(self) -> list[str]:
        """Names of the parameters, tied ones once, in the model's order."""
        return [name for name, _ in self.model.named_parameters()]


def run_update(
    bench: Bench, request: TrainRequest, report: Report, stopping: Callable[[], bool]
) -> tuple[TrainResult, dict[str, RawTensor]]:
    """Make the update in the mapping; returns the result and the optimizer's state after it."""
    shared, parent = bench.shared, request.parent
    if shared.replaced:
        raise TrainerFault("the server has made a new mapping; restart the trainer")
    frozen.check(bench.model)
    clean = shared.holds == parent and not shared.dirty
    restore(shared, bench.store, parent, settled=clean)
    optimizer, origin = _optimizer(bench, request)
    bench.store.has_room(shared.nbytes + optimizer.state_bytes())
    reports: list[StepReport] = []
    try:
        for made in _steps(bench, request, optimizer, stopping):
            reports.append(made)
            report(made)
    except BaseException:
        restore(shared, bench.store, parent, settled=clean, force=True)
        raise
    finally:
        bench.model.zero_grad(set_to_none=True)
    state = {name: to_raw(tensor) for name, tensor in optimizer.export_state(bench.names()).items()}
    return TrainResult(steps=len(reports), reports=tuple(reports), optimizer=origin), state


def _optimizer(bench: Bench, request: TrainRequest) -> tuple[Apollo, Literal["continued", "fresh"]]:
    """The optimizer with the parent's state, or a fresh one when there is none for this rank."""
    s = request.settings
    optimizer = Apollo(
        bench.model.parameters(),
        s.lr,
        rank=s.rank,
        betas=s.betas,
        eps=s.eps,
        weight_decay=s.weight_decay,
        warmup_steps=s.warmup_steps,
        scale=s.scale,
        proj_refresh=s.proj_refresh,
        norm_growth_limit=s.norm_growth_limit,
        projection=s.projection,
        master_weights=s.master_weights,
        seed=derive(request.seed, "optimizer"),
    )
    stored = bench.store.load_optimizer(request.parent)
    if stored is None:
        return optimizer, "fresh"
    state = {name: from_raw(raw) for name, raw in stored.items()}
    if not optimizer.fits(bench.names(), state):
        return optimizer, "fresh"
    optimizer.import_state(bench.names(), state)
    if s.reset_limiter:
        optimizer.reset_limiter()
    return optimizer, "continued"


def _steps(
    bench: Bench, request: TrainRequest, optimizer: Apollo, stopping: Callable[[], bool]
) -> Iterator[StepReport]:
    """Make one step after the other; raises before a step that must not be made."""
    settings, shared = request.settings, bench.shared
    examples = with_references(bench.model, request)
    batches = list(plan(len(examples), settings, request.seed))
    weight_norm = _norm([p.detach() for p in bench.model.parameters()])
    for number, batch in enumerate(batches, start=1):
        if stopping():
            raise TrainerFault("the trainer is stopping; the update was undone, ask again after the restart")
        started = time.monotonic()
        rows = [examples[i] for i in batch]
        bench.model.zero_grad(set_to_none=True)
        loss = loss_of(bench.model, request.objective, settings, rows, train=True)
        for what, value in {"loss": float(loss.value.detach()), **loss.metrics}.items():
            _finite(number, what, value)
        loss.value.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in bench.model.parameters() if p.grad is not None]
        grad_norm = _finite(number, "gradient", _norm(gradients))
        update_norm = _finite(number, "update", float(optimizer.propose()))
        ratio = update_norm / weight_norm
        if ratio > settings.norm_cap:
            raise StepRefused(
                f"step {number}: the update is {ratio:.3g} of the weights' norm, over norm_cap "
                f"{settings.norm_cap:g}; nothing was kept: lower the learning rate"
            )
        shared.dirty = True
        shared.holds = ""
        optimizer.apply()
        shared.bump()
        metrics = {"loss": float(loss.value.detach()), **loss.metrics, "grad_norm": grad_norm}
        metrics |= {"update_norm": update_norm, "update_ratio": ratio}
        tokens = sum(len(row.context) + len(row.chosen) + len(row.rejected) for row in rows)
        metrics["tokens_per_second"] = tokens / max(time.monotonic() - started, 1e-9)
        yield StepReport(step=number, steps=len(batches), metrics=metrics)


def plan(count: int, settings: Settings, seed: int) -> Iterator[list[int]]:
    """The examples of each step: every epoch in an order of its own, the last batch as short as it falls."""
    for epoch in range(settings.epochs):
        order = sorted(range(count), key=lambda i, epoch=epoch: derive(seed, "order", epoch, i))  # type: ignore[misc]
        for start in range(0, count, settings.batch_size):
            yield order[start : start + settings.batch_size]


def _finite(step: int, what: str, value: float) -> float:
    if not math.isfinite(value):
        raise StepRefused(f"step {step}: the {what} is {value}; nothing was kept: lower the learning rate")
    return value


def _norm(tensors: Sequence[torch.Tensor]) -> float:
    """Euclidean norm of all these tensors together."""
    return math.sqrt(math.fsum(float(torch.linalg.vector_norm(t, dtype=torch.float32)) ** 2 for t in tensors))
