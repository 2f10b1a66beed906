"""Tiny models of each family, with random weights, as directories written by `save_pretrained`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

VOCABULARY = 500
"""No multiple of 64: vLLM pads it."""
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_DELTA_RULE: dict[str, Any] = {
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
}
_EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "decoder_sparse_step": 1,
}


_INT8: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True},
            "input_activations": {
                "num_bits": 8,
                "type": "int",
                "strategy": "token",
                "dynamic": True,
                "symmetric": True,
            },
        }
    },
}


def _config(name: str, **more: Any) -> Callable[[], Any]:
    return lambda: getattr(transformers, name)(**{**_SHAPE, **more})


CONFIGS: dict[str, Callable[[], Any]] = {
    "qwen3-tied": _config("Qwen3Config", tie_word_embeddings=True),
    "qwen3": _config("Qwen3Config", tie_word_embeddings=False),
    "llama": _config("LlamaConfig", tie_word_embeddings=False),
    "qwen2": _config("Qwen2Config", tie_word_embeddings=False),
    "qwen3.5": _config("Qwen3_5TextConfig", tie_word_embeddings=False, **_DELTA_RULE),
    "qwen3.5-sees": lambda: transformers.Qwen3_5Config(
        text_config=CONFIGS["qwen3.5"]().to_dict(),
        vision_config={
            "depth": 1,
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 128,
            "num_position_embeddings": 16,
        },
        tie_word_embeddings=False,
    ),
    "moe": _config("Qwen3MoeConfig", tie_word_embeddings=False, **_EXPERTS),
    "quantized": _config("Qwen3Config", tie_word_embeddings=False),
    "gemma": _config("GemmaConfig"),
}
"""Configurations by a name of ours."""


def make(kind: str, directory: Path) -> Path:
    """Write a model of this kind: in bfloat16 with the gated delta rule, otherwise in float32."""
    torch.manual_seed(0)
    config, hybrid = CONFIGS[kind](), kind.startswith("qwen3.5")
    model = (
        AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    ).from_config(config)
    with torch.no_grad():
        for (
            parameter
        ) in model.parameters():  # far from what any two could have in common, and sharp enough to tell
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            else:
                parameter.mul_(4.0)
    model.to(torch.bfloat16 if hybrid else torch.float32).save_pretrained(directory)
    if kind == "quantized":  # in words only: the weights are not read
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": _INT8}))
    return directory
