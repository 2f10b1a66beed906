"""The trainer's verbs, one method each: what is done in the main thread, one request at a time.

Invariant: only these methods write the mapping. What `train` leaves besides the weights is kept in memory
only until the next `train` or `rollback`; `checkpoint` makes both durable. Knows no socket.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

from agents.model.protocol import RpcRequest
from agents.model.weights.snapshot import raw_weights, restore
from agents.trainer.messages import load, unpack_directions, unpack_tokens, unpack_train
from agents.trainer.scoring import activations, prefix_scoring
from agents.trainer.update.merge import run_merge
from agents.trainer.update.steering import pushing
from agents.trainer.update.update import Report, TrainerContext, dry_run, run_update
from corpus.errors import TrainerFault
from store.files.failpoints import reach
from store.task_vectors.recipe import Part
from store.tensors.raw import RawTensor

CHUNK = 16
"""Continuations in one forward pass of `logprobs`."""

Answer = tuple[dict[str, Any], list[bytes]]


@dataclass(frozen=True, kw_only=True)
class _Checkpoint:
    parent: str | None
    fields: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Merge:
    parent: str
    method: Literal["arithmetic", "ties"]
    density: float
    parts: tuple[tuple[str, str, float], ...]


@dataclass(frozen=True, kw_only=True)
class _Rollback:
    checkpoint: str
    settled: bool


@dataclass(frozen=True, kw_only=True)
class _Settle:
    checkpoint: str


@dataclass(frozen=True, kw_only=True)
class _Activations:
    layers: tuple[int, ...]
    heads: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Logprobs:
    steer: tuple[int, ...] = ()


class Worker:
    """The mapping's only writer."""

    def __init__(self, bench: TrainerContext, check: Callable[[str], None]) -> None:
        """`check` is called before each training step with the request's id: see `control.Control`."""
        self._bench = bench
        self._check = check
        self._trained: tuple[str, dict[str, RawTensor] | None] | None = None
        """The parent of the update in the mapping, and the optimizer's state after it; a merge has none."""

    def answer(self, request: RpcRequest, report: Report) -> Answer:
        """Do what is asked; `report` is called after every training step."""
        if request.verb == "train":
            return self._train(request, report)
        if request.verb == "merge":
            return self._merge(request)
        verbs: dict[str, Callable[[Mapping[str, Any], Sequence[bytes]], Answer]] = {
            "checkpoint": self._checkpoint,
            "rollback": self._rollback,
            "settle": self._settle,
            "logprobs": self._logprobs,
            "activations": self._activations,
            "stop": self._stop,
        }
        return verbs[request.verb](request.body, request.frames)

    def _train(self, asked: RpcRequest, report: Report) -> Answer:
        request, check = unpack_train(asked.body, asked.frames), partial(self._check, asked.id)
        if request.dry_run:
            return asdict(dry_run(self._bench, request, report, check)), []
        self._trained = None
        result, state = run_update(self._bench, request, report, check)
        self._trained = (request.parent, state)
        return asdict(result), []

    def _merge(self, request: RpcRequest) -> Answer:
        """Task vectors added to the parent's weights, as an update without steps."""
        asked = load(_Merge, request.body)
        if not asked.parts:
            raise TrainerFault("a merge needs at least one vector")
        parts = [Part(start=start, end=end, weight=weight) for start, end, weight in asked.parts]
        self._trained = None
        check = partial(self._check, request.id)
        moved = run_merge(self._bench, asked.parent, parts, asked.method, asked.density, check)
        self._trained = (asked.parent, None)
        return asdict(moved), []

    def _checkpoint(self, body: Mapping[str, Any], frames: Sequence[bytes]) -> Answer:
        """Write what the mapping holds as a candidate; it stays dirty until it is settled."""
        asked, shared = load(_Checkpoint, body), self._bench.shared
        self._same_mapping()
        state = None
        if asked.parent is None:
            if shared.dirty:
                raise TrainerFault("the mapping is in mid-update; roll back before making a first checkpoint")
        elif self._trained is None or self._trained[0] != asked.parent:
            raise TrainerFault(
                f"no update of {asked.parent[:12]} is in the mapping; train before `checkpoint`"
            )
        else:
            state = self._trained[1]
        fields = {**asked.fields, "parent": asked.parent}
        files = self._bench.store.write(raw_weights(shared), state, fields)
        shared.holds = files.id
        reach("candidate", "held")
        return asdict(files), []

    def _rollback(self, body: Mapping[str, Any], frames: Sequence[bytes]) -> Answer:
        asked, shared = load(_Rollback, body), self._bench.shared
        self._same_mapping()
        written = restore(shared, self._bench.store, asked.checkpoint, clean=asked.settled)
        self._trained = None
        return {"written": written, "version": shared.version}, []

    def _settle(self, body: Mapping[str, Any], frames: Sequence[bytes]) -> Answer:
        """The verdict is committed: these weights are the active checkpoint's."""
        asked, shared = load(_Settle, body), self._bench.shared
        self._same_mapping()
        if shared.holds != asked.checkpoint:
            held = shared.holds[:12] or "an update that is no checkpoint yet"
            raise TrainerFault(
                f"the mapping holds {held}, not {asked.checkpoint[:12]}; roll back to it first"
            )
        shared.dirty = False
        return {"version": shared.version}, []

    def _logprobs(self, body: Mapping[str, Any], frames: Sequence[bytes]) -> Answer:
        """A direction's frame for each layer that is steered; two frames for each item: context, continuation."""
        layers, model = load(_Logprobs, body).steer, self._bench.model
        prefix_scoring.check(model)
        rows = [unpack_tokens(frame) for frame in frames[len(layers) :]]
        if len(rows) % 2:
            raise TrainerFault("log-probabilities need two frames for each item: context and continuation")
        totals: list[float] = []
        with pushing(model, unpack_directions(layers, frames[: len(layers)])):
            for start in range(0, len(rows), 2 * CHUNK):
                part = rows[start : start + 2 * CHUNK]
                (scored,) = prefix_scoring.scores(model, part[::2], [part[1::2]], train=False)
                totals += scored.total.tolist()
        return {"totals": totals, "tokens": [len(row) for row in rows[1::2]]}, []

    def _activations(self, body: Mapping[str, Any], frames: Sequence[bytes]) -> Answer:
        """One frame for each text; answers a float32 frame (texts, layers, hidden), and one for each layer whose
        heads were asked for and can be told apart, (texts, heads, head size)."""
        asked = load(_Activations, body)
        if not asked.layers:
            raise TrainerFault("activations need at least one layer; name it by its number, from 0")
        found = activations.read(
            self._bench.model, [unpack_tokens(frame) for frame in frames], asked.layers, asked.heads
        )
        heads = [{"layer": layer, "shape": list(values.shape)} for layer, values in found.heads.items()]
        skipped = [{"layer": layer, "attention": name} for layer, name in found.skipped.items()]
        data = [values.numpy().tobytes() for values in (found.stream, *found.heads.values())]
        return {"shape": list(found.stream.shape), "heads": heads, "skipped": skipped}, data

    def _stop(self, body: Mapping[str, Any], frames: Sequence[bytes]) -> Answer:
        return {}, []

    def _same_mapping(self) -> None:
        if self._bench.shared.replaced:
            raise TrainerFault("the server has made a new mapping; restart the trainer")
