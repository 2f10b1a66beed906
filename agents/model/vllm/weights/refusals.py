"""The table of vLLM's configurations with which a model cannot be trained, each with the cure.

Invariant: the table is checked before weights are loaded, so in case of a refusal vLLM loads and packs its
weights as without the plugin. This module knows the fields of vLLM's configuration by name, and imports
nothing from vLLM.
"""

from collections.abc import Callable
from typing import Any

from agents.model.vllm.weights.families import family_of
from corpus.errors import IntegrityFault


def _replicas(config: Any) -> bool:
    """Return whether vLLM serves several replicas of the model.

    vLLM configures each replica of a dense model as if it were the only one. The replica's index, or the
    highest number of replicas that the user allows, shows that there are others.
    """
    parallel = config.parallel_config
    highest = getattr(parallel, "elastic_ep_max_dp_size", None) or 1
    return bool(max(parallel.data_parallel_size, parallel.data_parallel_index + 1, highest) > 1)


def _offloaded(config: Any) -> bool:
    offload = config.offload_config
    return bool(offload.uva.cpu_offload_gb > 0 or offload.prefetch.offload_group_size > 0)


REFUSALS: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (
        lambda c: c.model_config.is_moe,
        "a mixture of experts cannot be trained on vLLM, which stores experts in an order of its own; "
        "serve a dense model",
    ),
    (
        lambda c: c.model_config.quantization is not None or c.quant_config is not None,
        "quantized weights cannot be trained; serve the model unquantized (no --quantization, and none in "
        "config.json)",
    ),
    (
        lambda c: c.model_config.enable_sleep_mode,
        "weights that may be put to sleep cannot be shared; start vLLM without --enable-sleep-mode",
    ),
    (
        lambda c: c.parallel_config.tensor_parallel_size > 1,
        "tensor parallelism splits every weight; start vLLM with --tensor-parallel-size 1",
    ),
    (
        lambda c: c.parallel_config.pipeline_parallel_size > 1,
        "pipeline parallelism spreads the layers over processes; start vLLM with --pipeline-parallel-size 1",
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
        "weights that move between GPU and CPU cannot be shared; start vLLM without --cpu-offload-gb and "
        "--offload-group-size",
    ),
    (
        lambda c: c.lora_config is not None,
        "LoRA adapters fit only the weights that they were trained on; start vLLM without --enable-lora",
    ),
    (
        lambda c: bool(c.model_config.hf_overrides),
        "with --hf-overrides the model is not the one in its directory; write them into its config.json",
    ),
)
"""Pairs of a function and a text: it returns whether vLLM's configuration is refused; the text says why, with
the cure."""


def reason(config: Any) -> str:
    """Return the reason why a model that is served with this `VllmConfig` cannot be trained; "" if it can."""
    try:
        for refused, why in REFUSALS:
            if refused(config):
                return why
        family_of(config.model_config.hf_text_config)
    except IntegrityFault as error:
        return str(error)
    except AttributeError as error:  # an unknown version of vLLM must still serve
        return f"the configuration of this vLLM is not known here ({error}); use version 0.32"
    return ""
