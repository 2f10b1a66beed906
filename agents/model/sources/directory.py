"""The check that a Hugging Face directory is a causal language model for conversations.

Invariant: this module reads JSON and names of files only, so that a wrong directory is refused in
milliseconds. `safety` has checked before that it runs no code.
"""

import json
from pathlib import Path
from typing import Any

from corpus.errors import ConfigError

_CAUSAL_ENDINGS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""Ends of the names of architectures that continue a text; an encoder-decoder says itself that it is one."""


def check_causal(path: Path) -> None:
    """Raise `ConfigError` unless the configuration is that of a causal language model."""
    config = _json(path / "config.json")
    architectures = config.get("architectures") or []
    names = [name for name in architectures if isinstance(name, str)]
    if config.get("is_encoder_decoder") or (names and not any(n.endswith(_CAUSAL_ENDINGS) for n in names)):
        kind = ", ".join(names) or str(config.get("model_type"))
        raise ConfigError(
            f"{path} holds a {kind}, which is no causal language model: name a model that continues a text "
            "(its architecture ends with ForCausalLM)"
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
