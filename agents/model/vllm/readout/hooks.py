"""Readout and steering in the process of the forward pass: hooks on the layers that have concept vectors.

Readout projects the residual stream of each request's answer on the concept vectors, and publishes the
scores. Steering adds concept vectors to the residual stream of the requests that ask for it. Layer k means
the residual stream after `layers[k]`, as in the trainer's `activations`. vLLM's layers return it in two
parts, whose sum is the stream. A pass computes one row for each token of several requests.

Invariant: reading or steering one request does not affect the other requests of a pass. A pass without
requests to read or to steer is computed as without the hooks. This module knows nothing about HTTP.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from agents.model.describe import digest_of
from agents.model.steering.concept_vectors import ConceptVectors, ConceptVectorsWatcher
from agents.model.steering.wire import engine_strengths
from agents.model.vllm.config import PluginConfig
from agents.model.vllm.readout.publisher import Publisher, address
from agents.model.vllm.readout.scores import PassOwners, PassScores, Scores, rows_to_read

log = logging.getLogger("vllm.nightschool")


def refusal(vllm_config: Any) -> str:
    """Return the reason why readout and steering are not possible on this vLLM; "" if they are."""
    parallel = vllm_config.parallel_config
    if not vllm_config.model_config.enforce_eager:
        return "the residual stream is reached in eager mode only: start vLLM with --enforce-eager"
    if vllm_config.use_v2_model_runner:
        return "vLLM's second model runner is not supported: start it with VLLM_USE_V2_MODEL_RUNNER=0"
    if parallel.world_size > 1 or parallel.data_parallel_size > 1:
        return "the residual stream is read on one device only: start vLLM without parallelism"
    if vllm_config.speculative_config is not None:
        return "drafted tokens cannot be told from the answer's: start vLLM without speculative decoding"
    return ""


def install(model: torch.nn.Module, vllm_config: Any, config: PluginConfig) -> None:
    """Set the hooks on a loaded model; if they are not possible but configured, log why.

    A second call changes nothing.

    Args:
        model: The model as vLLM loaded it.
        vllm_config: vLLM's own configuration.
        config: The home that the plugin works for.
    """
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    reason = refusal(vllm_config) or (
        "" if decoder_layers(model, vllm_config) else "the model's layers were not found"
    )
    if reason:
        if config.model.readout:
            log.error("nightschool: model.readout is on, but %s. Serving on, unread.", reason)
        return
    if hasattr(GPUModelRunner, "_nightschool"):
        return
    publisher = Publisher(address(config.home.served_dir, vllm_config.instance_id))
    hooks = Hooks(model, vllm_config, config, publisher)
    update, forward = GPUModelRunner._update_states, GPUModelRunner._model_forward

    def _update_states(self: Any, scheduled: Any) -> Any:
        hooks.track(scheduled)
        return update(self, scheduled)

    def _model_forward(self: Any, *arguments: Any, **named: Any) -> Any:
        hooks.before_pass(self)
        try:
            return forward(self, *arguments, **named)
        finally:
            hooks.after_pass()

    GPUModelRunner._nightschool = hooks
    GPUModelRunner._update_states, GPUModelRunner._model_forward = _update_states, _model_forward


def decoder_layers(model: torch.nn.Module, vllm_config: Any) -> torch.nn.ModuleList | None:
    """Return the model's decoder layers, in their order; None if they are not found."""
    count = vllm_config.model_config.hf_text_config.num_hidden_layers
    for name, module in model.named_modules():
        if name.endswith("layers") and isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module
    return None


@dataclass(kw_only=True)
class _PassPlan:
    """The work of the hooks in one forward pass."""

    vectors: ConceptVectors
    rows: torch.Tensor | slice | None = None
    """The rows of the pass that are read; None for none. A slice stands for all rows, which avoids a copy."""
    owners: PassOwners | None = None
    """The requests that the rows belong to."""
    steered: tuple[tuple[int, int, dict[str, float]], ...] = ()
    """For each steered request: its first row, the row after its last, and its strengths by concept."""


class Hooks:
    """The hooks on one model, and the requests that they read and steer."""

    def __init__(
        self, model: torch.nn.Module, vllm_config: Any, config: PluginConfig, publisher: Publisher
    ) -> None:
        model_config = vllm_config.model_config
        layers = decoder_layers(model, vllm_config)
        assert layers is not None
        self._layers, self._reads, self._publisher = layers, config.model.readout, publisher
        self._watched = ConceptVectorsWatcher(
            config.home.path / "readout",
            hidden_size=model_config.get_hidden_size(),
            layers=len(layers),
            model=digest_of(str(model_config.model)),
        )
        self._strengths: dict[str, dict[str, float]] = {}
        """The strengths by concept of each running request that is steered."""
        self._unread: set[str] = set()
        """The running requests that asked not to be read."""
        self._handles: list[Any] = []
        self._tables: list[torch.Tensor] = []
        self._units, self._steered_at = torch.empty(0), 0
        self._plan: _PassPlan | None = None
        self._scores: list[torch.Tensor] = []
        self._refresh()

    def track(self, scheduled: Any) -> None:
        """Note the requests that begin or end, from the output of vLLM's scheduler."""
        for request in scheduled.finished_req_ids:
            self._strengths.pop(request, None)
            self._unread.discard(request)
        for new in scheduled.scheduled_new_reqs:
            extra = new.sampling_params.extra_args if new.sampling_params is not None else None
            if not extra:
                continue
            if asked := engine_strengths(extra):
                self._strengths[new.req_id] = asked
            if extra.get("readout") is False:
                self._unread.add(new.req_id)

    def before_pass(self, runner: Any) -> None:
        """Plan which rows of the next forward pass are read, and which are steered."""
        self._plan, self._scores = None, []
        if not self._reads and not self._strengths:
            return
        self._refresh()
        if self._watched.vectors is None:
            return
        requests = list(runner.input_batch.req_ids)
        starts = runner.query_start_loc.np[: len(requests) + 1]
        plan = _PassPlan(vectors=self._watched.vectors)
        if self._strengths:
            plan.steered = tuple(
                (int(starts[at]), int(starts[at + 1]), self._strengths[request])
                for at, request in enumerate(requests)
                if request in self._strengths
            )
        if self._reads:
            self._plan_rows(plan, runner.input_batch, requests, starts)
        self._plan = plan if plan.steered or plan.rows is not None else None

    def after_pass(self) -> None:
        """Publish the scores of the forward pass that has ended."""
        plan, scores, self._plan, self._scores = self._plan, self._scores, None, []
        if plan is None or plan.owners is None or len(scores) < len(plan.vectors.layers):
            return
        self._publisher.publish(torch.stack(scores, dim=1), partial(_pass_of, plan.vectors, plan.owners))

    def _plan_rows(self, plan: _PassPlan, batch: Any, requests: list[str], starts: Any) -> None:
        """Set in the plan the rows that are read: the last of each prompt, and those of each answer.

        Args:
            plan: The plan of the pass.
            batch: vLLM's batch of requests.
            requests: The names of the requests in the pass.
            starts: The first row of each request, and the end of the last.
        """
        count = len(requests)
        rows, first, counts = rows_to_read(
            starts, batch.num_computed_tokens_cpu[:count], batch.num_prompt_tokens[:count]
        )
        if self._unread and not self._unread.isdisjoint(requests):
            wanted = [request not in self._unread for request in requests]
            keep = [want for want, times in zip(wanted, counts.tolist(), strict=True) for _ in range(times)]
            rows, counts = rows[keep], counts * wanted
        if not len(rows):
            return
        whole = len(rows) == starts[-1]
        plan.rows = slice(0, len(rows)) if whole else torch.from_numpy(rows).to(self._tables[0].device)
        owners = [at for at, times in enumerate(counts.tolist()) if times]
        plan.owners = PassOwners(
            requests=tuple(requests[at] for at in owners),
            first=tuple(first[owners].tolist()),
            counts=tuple(counts[owners].tolist()),
        )

    def _refresh(self) -> None:
        """Remove the hooks and set new ones if the files of concept vectors have changed."""
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
        self._steered_at = vectors.steered
        log.info("nightschool: %d concepts at layers %s", len(vectors.concepts), list(vectors.layers))

    def _hook(self, at: int) -> Any:
        """Return the hook for the layer at position `at` of the vectors' layers.

        It computes scores; the hook of the steered layer also steers.
        """

        def hook(module: Any, inputs: Any, output: Any) -> None:
            if (plan := self._plan) is None:
                return
            parts = output if isinstance(output, tuple) else (output,)
            if at == self._steered_at:
                for start, end, asked in plan.steered:
                    parts[0][start:end] += self._direction(asked).to(parts[0].dtype)
            if plan.rows is not None:
                stream = parts[0][plan.rows]
                if len(parts) > 1:
                    stream = stream + parts[1][plan.rows]
                self._scores.append(stream.to(torch.float32) @ self._tables[at].T)

        return hook

    def _direction(self, asked: Mapping[str, float]) -> torch.Tensor:
        """Return the sum of the concepts' unit vectors times these strengths, `(hidden_size,)` float32."""
        vectors = self._watched.vectors
        assert vectors is not None
        weights = torch.tensor([asked.get(concept, 0.0) for concept in vectors.concepts])
        return weights.to(self._units.device) @ self._units


def _pass_of(vectors: ConceptVectors, owners: PassOwners, scores: Scores) -> PassScores:
    """Return the message of a pass: its scores, with the vectors and the requests that they belong to."""
    return PassScores(
        digest=vectors.digest,
        concepts=vectors.concepts,
        layers=vectors.layers,
        requests=owners.requests,
        first=owners.first,
        counts=owners.counts,
        scores=scores,
    )
