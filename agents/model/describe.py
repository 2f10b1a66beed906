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
from corpus.recipe import MODEL_DIR

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one value, for each type that can be trained."""

_LANGUAGE_MODEL = "model.language_model."
"""Prefix of the language model's weight names in the files of a model with vision."""
_OTHER_PARTS = ("model.visual.", "mtp.")
"""Prefixes of the weight names of a vision encoder, and of a multi-token prediction head."""
_COMPUTED = ".rotary_emb.inv_freq"
"""Suffix of the names of buffers in old files; they are left out, as the configuration determines them."""
Tensor = TypeVar("Tensor")


def text_config(model_dir: Path) -> dict[str, Any]:
    """Return the model's configuration; for a multimodal model, that of its text model."""
    try:
        config = json.loads((model_dir / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{model_dir} is not a model directory: {error}") from error
    inner: dict[str, Any] = config.get("text_config", config)
    return inner


def count_layers(model_dir: Path) -> int:
    """Return the model's number of layers (`num_hidden_layers` in its configuration)."""
    layers = text_config(model_dir).get("num_hidden_layers")
    if not isinstance(layers, int) or layers < 1:
        raise ConfigError(f"{model_dir}/config.json does not say num_hidden_layers")
    return layers


def attention_heads(model_dir: Path) -> tuple[int, int] | None:
    """Return the number of query heads and that of key-value heads; None if the configuration lacks them."""
    config = text_config(model_dir)
    query = config.get("num_attention_heads")
    key_value = config.get("num_key_value_heads", query)
    return (query, key_value) if isinstance(query, int) and isinstance(key_value, int) else None


def language_model_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the language model's tensors by their names in the causal language model.

    Tensors of other parts, such as a vision encoder, and computed buffers are left out.

    Args:
        tensors: All tensors of a model directory, by their names in its files.
    """
    return {
        f"model.{name.removeprefix(_LANGUAGE_MODEL)}" if name.startswith(_LANGUAGE_MODEL) else name: tensor
        for name, tensor in tensors.items()
        if not name.startswith(_OTHER_PARTS) and not name.endswith(_COMPUTED)
    }


def digest(model_dir: Path) -> str:
    """Return the SHA-256 of config.json and tokenizer.json, which stay the same while the weights change."""
    sha256 = hashlib.sha256()
    for name in ("config.json", "tokenizer.json"):
        path = model_dir / name
        sha256.update(path.read_bytes() if path.exists() else b"")
    return sha256.hexdigest()


def directory_of(name: str) -> Path:
    """Return the directory of a model on this machine; raise `IntegrityFault` if it is not here.

    name: the directory's path, or the name of a downloaded model on the Hugging Face hub.
    """
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


def is_shipped(model_digest: str) -> bool:
    """Return whether the model with this digest is the one that ships with the package."""
    return model_digest == digest(MODEL_DIR)


def digest_of(name: str) -> str:
    """Return the digest of a model, named as for `directory_of`; "" if it is not on this machine."""
    try:
        return digest(directory_of(name))
    except IntegrityFault:
        return ""
