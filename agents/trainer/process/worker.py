"""Carries out the trainer's requests: a method for each verb, in the main thread, one request at a time.

Invariant: only these methods write the shared weights. The optimizer's state after `train` stays in memory
until the next `train`, `merge` or `rollback`; `checkpoint` saves weights and state. This module knows nothing
about the socket.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from agents.model.protocol import RpcRequest
from agents.model.weights.snapshot import raw_weights, restore
from agents.trainer import wire
from agents.trainer.scoring import prefix_scoring, residual_stream
from agents.trainer.scoring.compute import computing, reading_type
from agents.trainer.scoring.residual_stream import StreamReading
from agents.trainer.update.merge import run_merge
from agents.trainer.update.training import Report, TrainerContext, dry_run, run_update
from agents.trainer.wire import load, unpack_tokens
from corpus.aliases import Json
from corpus.errors import TrainerFault
from store.files.failpoints import reach
from store.task_vectors.arithmetic import Part
from store.tensors.raw import RawTensor

CHUNK = 16
"""Number of continuations in one forward pass of `logprobs`."""

Answer = tuple[Json, list[bytes]]
"""Body and frames of a result."""


class Worker:
    """Carries out requests, as the only writer of the shared weights."""

    def __init__(self, context: TrainerContext, check: Callable[[str], None]) -> None:
        """`check` is called with the request's id before each training step: see `control.Control`."""
        self._context = context
        self._check = check
        self._trained: tuple[str, dict[str, RawTensor] | None] | None = None
        """Parent of the update in the shared weights, and the optimizer's state (None for a merge). None if
        there is no update."""

    def answer(self, request: RpcRequest, report: Report) -> Answer:
        """Carry out a request and return its result; `report` is called with each training step's report."""
        match request.verb:
            case "train":
                return self._train(request, report)
            case "merge":
                return self._merge(request)
            case "checkpoint":
                return self._checkpoint(request.body)
            case "rollback":
                return self._rollback(request.body)
            case "settle":
                return self._settle(request.body)
            case "logprobs":
                return self._logprobs(request.body, request.frames)
            case "activations":
                return self._activations(request.body, request.frames)
            case "stop":
                return {}, []
        raise TrainerFault(f"the trainer has no verb {request.verb!r}; restart the service")

    def _train(self, request: RpcRequest, report: Report) -> Answer:
        """Run an update or a dry run, and return its result."""
        train, check = wire.unpack_train(request.body, request.frames), partial(self._check, request.id)
        if train.dry_run:
            return asdict(dry_run(self._context, train, report, check)), []
        self._trained = None
        result, state = run_update(self._context, train, report, check)
        self._trained = (train.parent, state)
        return asdict(result), []

    def _merge(self, request: RpcRequest) -> Answer:
        """Add task vectors to the parent's weights; return the size of the change."""
        body = load(wire.MergeBody, request.body)
        if not body.parts:
            raise TrainerFault("a merge needs at least one vector")
        parts = [Part(start=start, end=end, weight=weight) for start, end, weight in body.parts]
        self._trained = None
        check = partial(self._check, request.id)
        extent = run_merge(self._context, body.parent, parts, body.method, body.density, check)
        self._trained = (body.parent, None)
        return asdict(extent), []

    def _checkpoint(self, fields: Mapping[str, Any]) -> Answer:
        """Write the shared weights as a candidate and return its id; they stay dirty until `settle`."""
        body, shared = load(wire.CheckpointBody, fields), self._context.shared
        self._context.require_current_mapping()
        state = None
        if body.parent is None:
            if shared.dirty:
                raise TrainerFault(
                    "the shared weights are in mid-update; roll back before making a first checkpoint"
                )
        elif self._trained is None or self._trained[0] != body.parent:
            raise TrainerFault(
                f"no update of {body.parent[:12]} is in the shared weights; train before `checkpoint`"
            )
        else:
            state = self._trained[1]
        files = self._context.store.write(raw_weights(shared), state, {**body.fields, "parent": body.parent})
        shared.holds = files.id
        reach("candidate", "held")
        return asdict(files), []

    def _rollback(self, fields: Mapping[str, Any]) -> Answer:
        """Restore a checkpoint's weights; return the version of the shared weights."""
        body, shared = load(wire.RollbackBody, fields), self._context.shared
        self._context.require_current_mapping()
        written = restore(shared, self._context.store, body.checkpoint, clean=body.settled)
        self._trained = None
        return asdict(wire.RollbackResult(written=written, version=shared.version)), []

    def _settle(self, fields: Mapping[str, Any]) -> Answer:
        """Mark the shared weights as those of the active checkpoint: its verdict is committed."""
        body, shared = load(wire.SettleBody, fields), self._context.shared
        self._context.require_current_mapping()
        if shared.holds != body.checkpoint:
            held = shared.holds[:12] or "an update that is not a checkpoint yet"
            raise TrainerFault(
                f"the shared weights hold {held}, not {body.checkpoint[:12]}; roll back to it first"
            )
        shared.dirty = False
        return asdict(wire.SettleResult(version=shared.version)), []

    def _logprobs(self, fields: Mapping[str, Any], frames: Sequence[bytes]) -> Answer:
        """Return log-probabilities of continuations: see `wire.LogprobsBody` and `wire.LogprobsResult`."""
        body, model = load(wire.LogprobsBody, fields), self._context.model
        layers, compute = body.steer, "weights" if body.exact else reading_type(model)
        prefix_scoring.check(model)
        rows = [unpack_tokens(frame) for frame in frames[len(layers) :]]
        if len(rows) % 2:
            raise TrainerFault("log-probabilities need two frames for each item: context and continuation")
        totals: list[float] = []
        with residual_stream.steered(model, wire.unpack_directions(layers, frames[: len(layers)])):
            for start in range(0, len(rows), 2 * CHUNK):
                part = rows[start : start + 2 * CHUNK]
                (scored,) = prefix_scoring.scores(
                    model, part[::2], [part[1::2]], train=False, compute=compute
                )
                totals += scored.total.tolist()
        result = wire.LogprobsResult(totals=tuple(totals), tokens=tuple(len(row) for row in rows[1::2]))
        return asdict(result), []

    def _activations(self, fields: Mapping[str, Any], frames: Sequence[bytes]) -> Answer:
        """Return the residual stream of texts: see `wire.ActivationsBody` and `wire.ActivationsResult`."""
        body = load(wire.ActivationsBody, fields)
        if not body.layers:
            raise TrainerFault("activations need at least one layer; name it by its number, from 0")
        texts, model = [unpack_tokens(frame) for frame in frames], self._context.model
        with computing(reading_type(model), model.get_input_embeddings().weight.device):
            return pack_activations(residual_stream.read(model, texts, body.layers, body.heads))


def pack_activations(reading: StreamReading) -> Answer:
    """Return the body and the frames of the answer to `activations`."""
    result = wire.ActivationsResult(
        shape=_shape(reading.stream),
        heads=tuple(wire.HeadShape(layer=n, shape=_shape(values)) for n, values in reading.heads.items()),
        skipped=tuple(wire.SkippedLayer(layer=n, attention=name) for n, name in reading.skipped.items()),
    )
    frames = [values.numpy().tobytes() for values in (reading.stream, *reading.heads.values())]
    return asdict(result), frames


def _shape(values: torch.Tensor) -> tuple[int, int, int]:
    first, second, third = values.shape
    return first, second, third
