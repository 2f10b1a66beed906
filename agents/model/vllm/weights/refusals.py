"""Which ways to serve a model cannot be trained, and what to do about each: a table.

Invariant: asked before a weight is loaded, so a vLLM that is refused loads and packs its weights as it would
without us. Knows vLLM's configuration by the names of its fields, and imports nothing of it.
"""

from collections.abc import Callable
from typing import Any

from agents.model.vllm.weights.families import family_of
from corpus.errors import IntegrityFault


def _replicas(config: Any) -> bool:
    """Each replica of a dense model is told that it is alone; the highest number that was asked for is left."""
    parallel = config.parallel_config
    asked = getattr(parallel, "elastic_ep_max_dp_size", None) or 1
    return bool(max(parallel.data_parallel_size, parallel.data_parallel_index + 1, asked) > 1)


def _offloaded(config: Any) -> bool:
    offload = config.offload_config
    return bool(offload.uva.cpu_offload_gb > 0 or offload.prefetch.offload_group_size > 0)


REFUSALS: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (
        lambda c: c.model_config.is_moe,
        "a mixture of experts cannot be trained on vLLM: its experts are kept in an order of vLLM's own; "
        "serve a dense model",
    ),
    (
        lambda c: c.model_config.quantization is not None or c.quant_config is not None,
        "quantized weights cannot be trained; serve the model unquantized (no --quantization, and none in config.json)",
    ),
    (
        lambda c: c.model_config.enable_sleep_mode,
        "weights that may be put to sleep cannot be shared; start vLLM without --enable-sleep-mode",
    ),
    (
        lambda c: c.parallel_config.tensor_parallel_size > 1,
        "tensor parallelism cuts every weight to pieces; start vLLM with --tensor-parallel-size 1",
    ),
    (
        lambda c: c.parallel_config.pipeline_parallel_size > 1,
        "pipeline parallelism puts each layer into another process; start vLLM with --pipeline-parallel-size 1",
    ),
    (
        _replicas,
        "data parallelism serves several copies of the weights; start vLLM with --data-parallel-size 1",
    ),
    (
        lambda c: c.parallel_config.world_size > 1,
        "the model is spread over several processes; start vLLM with one worker",
    ),
    (
        _offloaded,
        "weights that are moved between GPU and CPU cannot be shared; start vLLM without --cpu-offload-gb and "
        "--offload-group-size",
    ),
    (
        lambda c: c.lora_config is not None,
        "LoRA adapters were made for the weights as they were; start vLLM without --enable-lora",
    ),
    (
        lambda c: bool(c.model_config.hf_overrides),
        "--hf-overrides make of the model another than its directory's; write them into its config.json",
    ),
)
"""(vLLM's configuration) -> whether it is refused, and why."""


def reason(config: Any) -> str:
    """Why a model that is served with this `VllmConfig` cannot be trained; "" if nothing speaks against it."""
    try:
        for refused, why in REFUSALS:
            if refused(config):
                return why
        family_of(config.model_config.hf_text_config)
    except IntegrityFault as fault:
        return str(fault)
    except AttributeError as fault:  # whatever we do not know of it, it serves on
        return (
            f"this vLLM has another configuration than those that are known here ({fault}); take version 0.32"
        )
    return ""
