"""The check that a Hugging Face directory is a causal language model for conversations.

Invariant: this module reads JSON, names of files and names of weights; it builds a model, without memory for
its weights, only where the names are unusual. `safety` has checked before that the directory runs no code.
"""

import json
from pathlib import Path
from typing import Any

from agents.model.describe import language_model_tensors
from corpus.errors import ConfigError

_CAUSAL_ENDINGS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""Ends of the names of architectures that continue a text; an encoder-decoder says itself that it is one."""

_USUAL = ("model.layers.", "model.embed_tokens.", "model.norm.", "lm_head.")
"""Beginnings of the names in nearly all causal models; others are held against the model itself."""


def check_causal(path: Path) -> None:
    """Raise `ConfigError` unless the configuration is that of a causal language model."""
    config = _json(path / "config.json")
    architectures = config.get("architectures") or []
    names = [name for name in architectures if isinstance(name, str)]
    if config.get("is_encoder_decoder") or (names and not any(n.endswith(_CAUSAL_ENDINGS) for n in names)):
        kind = ", ".join(names) or str(config.get("model_type"))
        raise ConfigError(
            f"{path} holds a {kind}, which is not a causal language model: name a model that continues a "
            "text (its architecture ends with ForCausalLM)"
        )


def check_conversational(path: Path) -> None:
    """Raise `ConfigError` unless there is a causal model with a fast tokenizer and a chat template."""
    check_causal(path)
    if not (path / "tokenizer.json").is_file():
        raise ConfigError(
            f"{path} has no tokenizer.json: save its tokenizer there with transformers "
            "(AutoTokenizer.from_pretrained(...).save_pretrained(...))"
        )
    if not _has_chat_template(path):
        raise ConfigError(
            f"{path} has a tokenizer without a chat template: name a model that was made for conversations "
            "(an instruct model), or put its chat_template.jinja there"
        )


def check_weights(path: Path) -> None:
    """Raise `ConfigError` unless the files' weights are, name by name, those of the model in transformers."""
    from safetensors import safe_open

    names: dict[str, None] = {}
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, "np") as weights:
            names |= dict.fromkeys(weights.keys())
    names = language_model_tensors(names)
    if all(name.startswith(_USUAL) for name in names):
        return
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    if other := sorted(names.keys() - parameter_shapes(config).keys() - {"lm_head.weight"}):
        raise ConfigError(
            f"{path} has weights that are not, name by name, those of a language model in transformers "
            f"({other[0]}): name a text-only directory of the model, or its GGUF file, or serve it with your "
            "own vLLM (`init --url`)"
        )


def parameter_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters of the model that transformers makes of a configuration."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _has_chat_template(path: Path) -> bool:
    """Return whether one of the files in which transformers looks has a chat template."""
    if (path / "chat_template.jinja").is_file() or (path / "additional_chat_templates").is_dir():
        return True
    return any(
        (path / name).is_file() and bool(_json(path / name).get("chat_template"))
        for name in ("tokenizer_config.json", "chat_template.json", "processor_config.json")
    )


def _json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; {} if it holds something else."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): download the model again") from error
    return value if isinstance(value, dict) else {}
