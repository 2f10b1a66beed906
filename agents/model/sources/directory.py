"""Checks that a Hugging Face directory holds a causal language model for conversations.

Invariant: this module reads JSON, names of files and names of weights. It builds the model, without memory
for its weights, only if the names of the weights are unusual. Before these checks, `safety` has checked that
the directory contains no code.
"""

import json
from pathlib import Path
from typing import Any

from agents.model.describe import language_model_tensors
from corpus.errors import ConfigError

_CAUSAL_ENDINGS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""Suffixes of the names of causal architectures; encoder-decoders have some of them, but another mark as well
(`is_encoder_decoder`)."""

_USUAL = ("model.layers.", "model.embed_tokens.", "model.norm.", "lm_head.")
"""Prefixes of the weight names in nearly all causal models; other names are compared with the model's own."""


def check_causal(path: Path) -> None:
    """Raise `ConfigError` unless the directory's configuration is that of a causal language model."""
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
    """Raise `ConfigError` unless the directory has a causal model, a fast tokenizer and a chat template."""
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
    """Raise `ConfigError` if a weight in the directory's files has a name that transformers' model lacks."""
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
    """Return the shape of each parameter, by name, of the model that transformers builds from `config`."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _has_chat_template(path: Path) -> bool:
    """Return whether one of the files that transformers reads contains a chat template."""
    if (path / "chat_template.jinja").is_file() or (path / "additional_chat_templates").is_dir():
        return True
    return any(
        (path / name).is_file() and bool(_json(path / name).get("chat_template"))
        for name in ("tokenizer_config.json", "chat_template.json", "processor_config.json")
    )


def _json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; {} if the file contains another JSON value."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): download the model again") from error
    return value if isinstance(value, dict) else {}
