"""How many layers a model directory's model has, without loading it."""

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
