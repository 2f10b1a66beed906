"""The description of a model directory, read without loading the model: its layers, weight names and digest.

Invariant: this module opens nothing but JSON files, and runs no code of the model. It knows nothing about
torch or servers.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from corpus.errors import ConfigError, IntegrityFault

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one value, by the types that can be trained."""

_LANGUAGE_MODEL = "model.language_model."
"""Prefix of the language model's names in the files of a model with vision."""
_OTHER_PARTS = ("model.visual.", "mtp.")
"""Prefixes of the vision encoder's names, and of those of a multi-token prediction head."""
_COMPUTED = ".rotary_emb.inv_freq"
"""End of the names of buffers that old files hold, and that the configuration determines."""
Tensor = TypeVar("Tensor")


def text_config(model_dir: Path) -> dict[str, Any]:
    """Return the configuration; of a model with several parts, that of the text."""
    try:
        config = json.loads((model_dir / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{model_dir} is not a model directory: {error}") from error
    inner: dict[str, Any] = config.get("text_config", config)
    return inner


def count_layers(model_dir: Path) -> int:
    """Return `num_hidden_layers` of the configuration."""
    layers = text_config(model_dir).get("num_hidden_layers")
    if not isinstance(layers, int) or layers < 1:
        raise ConfigError(f"{model_dir}/config.json does not say num_hidden_layers")
    return layers


def attention_heads(model_dir: Path) -> tuple[int, int] | None:
    """Return the numbers of query heads and key-value heads; None if the configuration lacks them."""
    config = text_config(model_dir)
    query = config.get("num_attention_heads")
    key_value = config.get("num_key_value_heads", query)
    return (query, key_value) if isinstance(query, int) and isinstance(key_value, int) else None


def language_model_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a directory's files as the causal language model does, without other parts."""
    return {
        f"model.{name.removeprefix(_LANGUAGE_MODEL)}" if name.startswith(_LANGUAGE_MODEL) else name: tensor
        for name, tensor in tensors.items()
        if not name.startswith(_OTHER_PARTS) and not name.endswith(_COMPUTED)
    }


def digest(model_dir: Path) -> str:
    """Return a digest of configuration and tokenizer, which stay the same while the weights change."""
    sha256 = hashlib.sha256()
    for name in ("config.json", "tokenizer.json"):
        path = model_dir / name
        sha256.update(path.read_bytes() if path.exists() else b"")
    return sha256.hexdigest()


def directory_of(name: str) -> Path:
    """Return the local directory of a model that is named by its path, or by its name on the hub."""
    if name and Path(name).is_dir():
        return Path(name).resolve()
    # Imported here, because it is slow and the command line rarely needs it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True)).resolve()
    except (LocalEntryNotFoundError, ValueError) as error:
        raise IntegrityFault(
            f"{name or 'a model without a name'} is not a directory on this machine: serve one"
        ) from error


def digest_of(name: str) -> str:
    """Return the digest of a model by its path or its name on the hub; "" if it is not on this machine."""
    try:
        return digest(directory_of(name))
    except IntegrityFault:
        return ""
