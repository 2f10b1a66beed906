"""What a model directory says of itself, without loading it: how many layers, and which model it is."""

import hashlib
import json
from pathlib import Path

from corpus.errors import ConfigError


def count_layers(model_dir: Path) -> int:
    """`num_hidden_layers` of the configuration; of its text part, for a model with several."""
    try:
        config = json.loads((model_dir / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{model_dir} is no model directory: {error}") from error
    layers = config.get("text_config", config).get("num_hidden_layers")
    if not isinstance(layers, int) or layers < 1:
        raise ConfigError(f"{model_dir}/config.json does not say num_hidden_layers")
    return layers


def digest(model_dir: Path) -> str:
    """Digest of the configuration and the tokenizer: what must stay the same while the weights change."""
    found = hashlib.sha256()
    for name in ("config.json", "tokenizer.json"):
        path = model_dir / name
        found.update(path.read_bytes() if path.exists() else b"")
    return found.hexdigest()
