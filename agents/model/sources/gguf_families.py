"""The model families that can be converted from GGUF, with their configurations and weights in transformers.

llama.cpp's converter to GGUF renames the weights, reorders the rows of Llama's queries and keys, and adds one
to Gemma's norms. This module undoes all three.

Invariant: a file is converted exactly or refused. A tensor that its family does not have is an error; it is
never left out.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agents.model.sources.gguf_file import GgufFile
from corpus.aliases import Json
from corpus.errors import ConfigError

_PROJECTIONS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
}
_TWO_NORMS = {**_PROJECTIONS, "ffn_norm": "post_attention_layernorm"}
_FOUR_NORMS = {
    **_PROJECTIONS,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_COMPUTED = frozenset({"rope_freqs.weight"})
"""Tensors that are left out, because the configuration determines them."""
_IN_LAYER = re.compile(r"blk\.(\d+)\.([a-z_]+)\.(weight|bias)")
_OUT_OF_LAYER = re.compile(r"([a-z_]+)\.(weight|bias)")
LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Settings of Llama 3.1's and 3.2's scaling of rotary frequencies; a GGUF file has only the resulting
factors."""
_GEMMA3_LOCAL_THETA = 10_000.0
_GEMMA3_27B_LAYERS = 62
"""Number of layers of Gemma 3 27B. Its attention alone is not scaled by the size of the heads; llama.cpp too
recognises it by this number."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family of models, as llama.cpp and transformers know it."""

    config_class: str
    """Name of the configuration's class in transformers."""
    names: Mapping[str, str]
    """Names of the modules inside a layer in transformers, by their names in llama.cpp."""
    settings: Callable[[GgufFile], Json]
    """Returns the settings of the configuration that are particular to this family."""
    has_reordered_heads: bool = False
    """Whether llama.cpp reorders the rows of queries and keys."""
    norm_offset: float = 0.0
    """The number that llama.cpp's converter adds to the weights of the norms."""


def family_of(file: GgufFile) -> Family:
    """Return the family of the file's model; raise `ConfigError` if it is not in FAMILIES or has experts."""
    family = FAMILIES.get(file.family)
    if family is None or file.whole(f"{file.family}.expert_count", 0):
        experts = " with experts" if family else ""
        raise ConfigError(
            f"{file.path} holds a model of the family {file.family!r}{experts}, which cannot be converted "
            f"here ({', '.join(FAMILIES)} can): name the model's safetensors directory instead"
        )
    return family


def configuration(file: GgufFile) -> Json:
    """Return the arguments for the family's configuration class in transformers."""
    family, prefix = family_of(file), file.family
    heads, hidden = (
        file.whole(f"{prefix}.attention.head_count"),
        file.whole(f"{prefix}.embedding_length"),
    )
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise file.damaged("it has no token_embd.weight")
    common: Json = {
        "vocab_size": int(embedding.shape[-1]),
        "hidden_size": hidden,
        "intermediate_size": file.whole(f"{prefix}.feed_forward_length"),
        "num_hidden_layers": file.whole(f"{prefix}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.whole(f"{prefix}.attention.head_count_kv", heads),
        "rms_norm_eps": file.number(f"{prefix}.attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": file.whole(f"{prefix}.context_length"),
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }
    return {**common, **family.settings(file)}


def weight_name(file: GgufFile, name: str) -> str | None:
    """Return transformers' name for the file's tensor `name`; None if the tensor is left out.

    A tensor that the family does not have raises `ConfigError`.
    """
    if name in _COMPUTED:
        return None
    names = family_of(file).names
    if (match := _IN_LAYER.fullmatch(name)) and match[2] in names:
        return f"model.layers.{match[1]}.{names[match[2]]}.{match[3]}"
    if (match := _OUT_OF_LAYER.fullmatch(name)) and match[1] in _OUTSIDE:
        return f"{_OUTSIDE[match[1]]}.{match[2]}"
    raise ConfigError(
        f"{file.path} holds {name}, which the family {file.family!r} does not have: "
        "name the model's safetensors directory instead"
    )


def weight(file: GgufFile, name: str) -> Any:
    """Return the file's tensor `name` as a float32 array with the values that it has in transformers."""
    family, array = family_of(file), file.read(name)
    if family.norm_offset and name.endswith("norm.weight"):
        return array - family.norm_offset
    part = name.split(".")[-2]
    if family.has_reordered_heads and part in ("attn_q", "attn_k"):
        heads = file.whole(f"{file.family}.attention.head_count")
        return _halves(array, heads if part == "attn_q" else _kv_heads(file, heads))
    return array


def _kv_heads(file: GgufFile, heads: int) -> int:
    return file.whole(f"{file.family}.attention.head_count_kv", heads)


def _halves(array: Any, heads: int) -> Any:
    """Return the rows in transformers' order: the first half of each head, then its second half.

    In the file the rows of the two halves alternate. `heads` is the number of heads.
    """
    rows = array.reshape(heads, array.shape[0] // heads // 2, 2, *array.shape[1:])
    return rows.swapaxes(1, 2).reshape(array.shape)


def _head_dim(file: GgufFile) -> int:
    """Return the size of an attention head."""
    prefix = file.family
    default = file.whole(f"{prefix}.embedding_length") // file.whole(f"{prefix}.attention.head_count")
    return file.whole(f"{prefix}.attention.key_length", file.whole(f"{prefix}.rope.dimension_count", default))


def _rope(file: GgufFile, default_theta: float = 10_000.0) -> Json:
    """Return transformers' parameters of the rotary embedding.

    `default_theta` is the base of its frequencies if the file names none.
    """
    prefix = f"{file.family}.rope"
    rope: Json = {"rope_type": "default", "rope_theta": file.number(f"{prefix}.freq_base", default_theta)}
    kind = file.value(f"{prefix}.scaling.type", "none")
    if "rope_freqs.weight" in file.tensors:
        return {**rope, **_llama3_scaling(file, rope["rope_theta"])}
    if kind == "none":
        return rope
    rope["factor"] = file.number(f"{prefix}.scaling.factor")
    if kind == "linear":
        return {**rope, "rope_type": "linear"}
    if kind == "yarn":
        original = file.whole(f"{prefix}.scaling.original_context_length")
        return {**rope, "rope_type": "yarn", "original_max_position_embeddings": original}
    raise ConfigError(
        f"{file.path} stretches its positions by {kind!r}, which cannot be converted here: "
        "name the model's safetensors directory instead"
    )


def _llama3_scaling(file: GgufFile, theta: float) -> Json:
    """Return the scaling of Llama 3.1 and 3.2 that gives the file's frequency factors.

    Other factors raise `ConfigError`. `theta` is the base of the frequencies.
    """
    import numpy as np
    import torch
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    factors = file.read("rope_freqs.weight")
    scaling = {"rope_type": "llama3", "factor": float(factors.max()), **LLAMA3_ROPE}
    config = LlamaConfig(
        head_dim=2 * len(factors),
        max_position_embeddings=file.whole(f"{file.family}.context_length"),
        rope_parameters={"rope_theta": theta, **scaling},
    )
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = theta ** -(np.arange(len(factors)) / len(factors))
    if not np.allclose(plain / frequencies.numpy(), factors, rtol=1e-3):
        raise ConfigError(
            f"{file.path} has frequency factors that are not those of Llama 3: "
            "name the model's safetensors directory instead"
        )
    return scaling


def _llama(file: GgufFile) -> Json:
    return {
        "head_dim": _head_dim(file),
        "rope_parameters": _rope(file),
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
    }


def _qwen2(file: GgufFile) -> Json:
    return {"rope_parameters": _rope(file)}


def _qwen3(file: GgufFile) -> Json:
    return {"head_dim": _head_dim(file), "rope_parameters": _rope(file)}


def _gemma3(file: GgufFile) -> Json:
    head_dim, hidden = _head_dim(file), file.whole("gemma3.embedding_length")
    is_27b = file.whole("gemma3.block_count") == _GEMMA3_27B_LAYERS
    scale = hidden // file.whole("gemma3.attention.head_count") if is_27b else head_dim
    settings: Json = {
        "head_dim": head_dim,
        "query_pre_attn_scalar": scale,
        "sliding_window": file.whole("gemma3.attention.sliding_window"),
        "rope_parameters": {
            "full_attention": _rope(file, 1_000_000.0),
            "sliding_attention": {
                "rope_type": "default",
                "rope_theta": file.number("gemma3.rope.freq_base_swa", _GEMMA3_LOCAL_THETA),
            },
        },
    }
    if (cap := file.value("gemma3.final_logit_softcapping")) is not None:
        settings["final_logit_softcapping"] = float(cap)
    return settings


FAMILIES: Mapping[str, Family] = {
    "llama": Family(config_class="LlamaConfig", names=_TWO_NORMS, settings=_llama, has_reordered_heads=True),
    "qwen2": Family(config_class="Qwen2Config", names=_TWO_NORMS, settings=_qwen2),
    "qwen3": Family(config_class="Qwen3Config", names=_TWO_NORMS, settings=_qwen3),
    "gemma3": Family(config_class="Gemma3TextConfig", names=_FOUR_NORMS, settings=_gemma3, norm_offset=1.0),
}
"""The families that can be converted, by their names in llama.cpp."""
