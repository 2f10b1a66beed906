"""What a model directory says of itself, without loading it: its layers, its weights' names, which model it is."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from corpus.errors import ConfigError, IntegrityFault

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Of one value of a parameter that can be trained."""

_INSIDE = "model.language_model."
"""What stands before a language model's names in the files of a model that also sees."""
_APART = ("model.visual.", "mtp.")
"""How the names of its eyes, and of a head that guesses several tokens ahead, begin."""
Tensor = TypeVar("Tensor")


def text_config(model_dir: Path) -> dict[str, Any]:
    """The configuration; its text part, for a model with several."""
    try:
        config = json.loads((model_dir / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{model_dir} is no model directory: {error}") from error
    inner: dict[str, Any] = config.get("text_config", config)
    return inner


def count_layers(model_dir: Path) -> int:
    """`num_hidden_layers` of the configuration; of its text part, for a model with several."""
    layers = text_config(model_dir).get("num_hidden_layers")
    if not isinstance(layers, int) or layers < 1:
        raise ConfigError(f"{model_dir}/config.json does not say num_hidden_layers")
    return layers


def attention_heads(model_dir: Path) -> tuple[int, int] | None:
    """How many heads ask, and how many keys and values they share; None where the configuration names none."""
    config = text_config(model_dir)
    query = config.get("num_attention_heads")
    key_value = config.get("num_key_value_heads", query)
    return (query, key_value) if isinstance(query, int) and isinstance(key_value, int) else None


def language_model_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in a directory's files, by the names that the causal language model has for them."""
    return {
        f"model.{name.removeprefix(_INSIDE)}" if name.startswith(_INSIDE) else name: tensor
        for name, tensor in tensors.items()
        if not name.startswith(_APART)
    }


def digest(model_dir: Path) -> str:
    """Digest of the configuration and the tokenizer: what must stay the same while the weights change."""
    found = hashlib.sha256()
    for name in ("config.json", "tokenizer.json"):
        path = model_dir / name
        found.update(path.read_bytes() if path.exists() else b"")
    return found.hexdigest()


def directory_of(name: str) -> Path:
    """The directory on this machine of a model that was named by it, or by its name on the hub."""
    if name and Path(name).is_dir():
        return Path(name).resolve()
    # Deferred: the command line should not wait for it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True)).resolve()
    except (LocalEntryNotFoundError, ValueError) as error:
        raise IntegrityFault(
            f"{name or 'a model without a name'} is no directory on this machine: serve one"
        ) from error


def digest_of(name: str) -> str:
    """Digest of a model that was named by its directory, or by its name on the hub; "" where it is not here."""
    try:
        return digest(directory_of(name))
    except IntegrityFault:
        return ""
