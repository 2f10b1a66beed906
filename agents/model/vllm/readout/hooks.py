"""Readout and steering in the process that runs the forward pass: a hook on the layers of the concept vectors.

Reading projects the residual stream of each request's answer on the vectors and publishes the scores; steering adds
concept vectors to the stream of the requests that ask for it. Layer k is the stream after `layers[k]`, as in the
trainer's `activations`: vLLM's layers return it in two parts, whose sum it is. Invariant: a request's rows are its
own: no other request in the batch is read or moved with it. A pass with nothing to read and nobody to steer is left
alone. Knows no HTTP.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from agents.model.describe import digest_of
from agents.model.steering.concept_vectors import ConceptVectors, ConceptVectorsWatcher
from agents.model.steering.wire import engine_strengths
from agents.model.vllm.configured import Configured
from agents.model.vllm.readout.publisher import Publisher, address
from agents.model.vllm.readout.scores import Passed, picked

log = logging.getLogger("vllm.nightschool")


def refusal(vllm_config: Any) -> str:
    """Why this vLLM can neither be read nor steered; "" when it can."""
    parallel = vllm_config.parallel_config
    if not vllm_config.model_config.enforce_eager:
        return "the residual stream is reached in eager mode only: start vLLM with --enforce-eager"
    if vllm_config.use_v2_model_runner:
        return "vLLM's second model runner is not supported: start it with VLLM_USE_V2_MODEL_RUNNER=0"
    if parallel.world_size > 1 or parallel.data_parallel_size > 1:
        return "the residual stream is read on one device only: start vLLM without parallelism"
    if vllm_config.speculative_config is not None:
        return "drafted tokens are not told from those of the answer: start vLLM without speculative decoding"
    return ""


def install(model: torch.nn.Module, vllm_config: Any, found: Configured) -> None:
    """Set the hooks on a loaded model, once; or say why not."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    reason = refusal(vllm_config) or (
        "" if decoder_layers(model, vllm_config) else "the model's layers were not found"
    )
    if reason:
        if found.model.readout:
            log.error("nightschool: model.readout is on, but %s. Serving on, unread.", reason)
        return
    if hasattr(GPUModelRunner, "_nightschool"):
        return
    publisher = Publisher(address(found.home.served_dir, vllm_config.instance_id))
    hooks = Hooks(model, vllm_config, found, publisher)
    update, forward = GPUModelRunner._update_states, GPUModelRunner._model_forward

    def _update_states(self: Any, scheduled: Any) -> Any:
        hooks.notice(scheduled)
        return update(self, scheduled)

    def _model_forward(self: Any, *arguments: Any, **named: Any) -> Any:
        hooks.begin(self)
        try:
            return forward(self, *arguments, **named)
        finally:
            hooks.end()

    GPUModelRunner._nightschool = hooks
    GPUModelRunner._update_states, GPUModelRunner._model_forward = _update_states, _model_forward


def decoder_layers(model: torch.nn.Module, vllm_config: Any) -> torch.nn.ModuleList | None:
    """The model's decoder layers, from the first."""
    count = vllm_config.model_config.hf_text_config.num_hidden_layers
    for name, module in model.named_modules():
        if name.endswith("layers") and isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module
    return None


@dataclass(kw_only=True)
class _Pass:
    """What is to be done in one forward pass."""

    vectors: ConceptVectors
    rows: torch.Tensor | slice | None = None
    """Rows that are read; None where nothing is. All of them are a slice: nothing is copied."""
    told: Mapping[str, tuple[Any, ...]] | None = None
    """Whose rows they are: fields of `Passed`."""
    steered: tuple[tuple[int, int, dict[str, float]], ...] = ()
    """First row, end and strengths of each request that is steered."""


class Hooks:
    """The hooks on one model."""

    def __init__(
        self, model: torch.nn.Module, vllm_config: Any, found: Configured, publisher: Publisher
    ) -> None:
        config = vllm_config.model_config
        layers = decoder_layers(model, vllm_config)
        assert layers is not None
        self._layers, self._reads, self._publisher = layers, found.model.readout, publisher
        self._watched = ConceptVectorsWatcher(
            found.home.path / "readout",
            hidden_size=config.get_hidden_size(),
            layers=len(layers),
            model=digest_of(str(config.model)),
        )
        self._steered: dict[str, dict[str, float]] = {}
        self._unread: set[str] = set()
        self._handles: list[Any] = []
        self._tables: list[torch.Tensor] = []
        self._units, self._steers_at = torch.empty(0), 0
        self._pass: _Pass | None = None
        self._caught: list[torch.Tensor] = []
        self._look()

    def notice(self, scheduled: Any) -> None:
        """Learn from the scheduler who has come, and who has gone."""
        for request in scheduled.finished_req_ids:
            self._steered.pop(request, None)
            self._unread.discard(request)
        for new in scheduled.scheduled_new_reqs:
            extra = new.sampling_params.extra_args if new.sampling_params is not None else None
            if not extra:
                continue
            if asked := engine_strengths(extra):
                self._steered[new.req_id] = asked
            if extra.get("readout") is False:
                self._unread.add(new.req_id)

    def begin(self, runner: Any) -> None:
        """Before a forward pass: which of its rows are read, and which are steered."""
        self._pass, self._caught = None, []
        if not self._reads and not self._steered:
            return
        self._look()
        if self._watched.vectors is None:
            return
        requests = list(runner.input_batch.req_ids)
        starts = runner.query_start_loc.np[: len(requests) + 1]
        told = _Pass(vectors=self._watched.vectors)
        if self._steered:
            told.steered = tuple(
                (int(starts[at]), int(starts[at + 1]), self._steered[request])
                for at, request in enumerate(requests)
                if request in self._steered
            )
        if self._reads:
            self._pick(told, runner.input_batch, requests, starts)
        self._pass = told if told.steered or told.rows is not None else None

    def end(self) -> None:
        """After it: send on what was read."""
        done, caught, self._pass, self._caught = self._pass, self._caught, None, []
        if done is None or done.told is None or len(caught) < len(done.vectors.layers):
            return
        vectors, told, scores = done.vectors, done.told, torch.stack(caught, dim=1)

        def passed(values: Any) -> Passed:
            return Passed(
                digest=vectors.digest,
                concepts=vectors.concepts,
                layers=vectors.layers,
                requests=told["requests"],
                first=told["first"],
                counts=told["counts"],
                scores=values,
            )

        self._publisher.publish(scores, passed)

    def _pick(self, told: _Pass, batch: Any, requests: list[str], starts: Any) -> None:
        """Choose the rows that are read: the last of each prompt, and each answer's."""
        count = len(requests)
        rows, first, counts = picked(
            starts, batch.num_computed_tokens_cpu[:count], batch.num_prompt_tokens[:count]
        )
        if self._unread and not self._unread.isdisjoint(requests):
            silent = [request in self._unread for request in requests]
            keep = [not one for one, times in zip(silent, counts.tolist(), strict=True) for _ in range(times)]
            rows, counts = rows[keep], counts * [not one for one in silent]
        if not len(rows):
            return
        whole = len(rows) == starts[-1]
        told.rows = slice(0, len(rows)) if whole else torch.from_numpy(rows).to(self._tables[0].device)
        heard = [at for at, times in enumerate(counts.tolist()) if times]
        told.told = {
            "requests": tuple(requests[at] for at in heard),
            "first": tuple(first[heard].tolist()),
            "counts": tuple(counts[heard].tolist()),
        }

    def _look(self) -> None:
        """Set the hooks anew if there are other vectors."""
        if not self._watched.look():
            return
        for handle in self._handles:
            handle.remove()
        self._handles, self._tables = [], []
        vectors = self._watched.vectors
        if vectors is None:
            if self._reads:
                log.info("nightschool: the residual stream is not read: %s", self._watched.reason)
            return
        device = next(self._layers.parameters()).device
        for at, layer in enumerate(vectors.layers):
            self._tables.append(torch.from_numpy(vectors.values[at].copy()).to(device))
            self._handles.append(self._layers[layer].register_forward_hook(self._hook(at)))
        self._units = torch.nn.functional.normalize(self._tables[vectors.steered], dim=1)
        self._steers_at = vectors.steered
        log.info("nightschool: %d concepts at layers %s", len(vectors.concepts), list(vectors.layers))

    def _hook(self, at: int) -> Any:
        """The hook on the layer that is number `at` of the vectors'; steering is done at one of them."""

        def hook(module: Any, inputs: Any, output: Any) -> None:
            if (done := self._pass) is None:
                return
            parts = output if isinstance(output, tuple) else (output,)
            if at == self._steers_at:
                for start, end, asked in done.steered:
                    parts[0][start:end] += self._direction(asked).to(parts[0].dtype)
            if done.rows is not None:
                stream = parts[0][done.rows]
                if len(parts) > 1:
                    stream = stream + parts[1][done.rows]
                self._caught.append(stream.to(torch.float32) @ self._tables[at].T)

        return hook

    def _direction(self, asked: Mapping[str, float]) -> torch.Tensor:
        """What is added to each token, `(hidden_size,)` float32: the strengths times the unit vectors."""
        vectors = self._watched.vectors
        assert vectors is not None
        weights = torch.tensor([asked.get(concept, 0.0) for concept in vectors.concepts])
        return weights.to(self._units.device) @ self._units
