"""The refusal of model directories that would run code when loaded.

Invariant: an accepted directory can be loaded with safetensors and plain JSON alone, without remote code
(`trust_remote_code` is never on) and without pickle. This module does not know whether the model is any good,
or whose it is.
"""

import json
from pathlib import Path
from typing import Any

from corpus.errors import UnsafeModel

CONFIG_FILES = (
    "config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
    "generation_config.json",
)
"""Files in which transformers looks for `auto_map`."""
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
"""Suffixes of files that hold weights as pickles."""
MAX_HEADER_BYTES = 100_000_000
"""Largest header that the safetensors format allows."""


def check_model_dir(path: Path) -> None:
    """Raise `UnsafeModel` unless the directory holds weights and configuration that are only data."""
    if not path.is_dir():
        raise UnsafeModel(f"{path} is not a directory; give one with config.json and *.safetensors")
    if not (path / "config.json").is_file():
        raise UnsafeModel(f"{path} has no config.json; give a Hugging Face model directory")
    check_config_files(path)
    _check_names(path)
    for weights in sorted(path.rglob("*.safetensors")):
        check_safetensors(weights)


def check_config_files(path: Path) -> None:
    """Raise `UnsafeModel` if a configuration in this directory names code to load."""
    for name in CONFIG_FILES:
        _check_config(path / name)


def _check_config(path: Path) -> None:
    """Refuse a configuration that names code to load."""
    if not path.is_file():
        return
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UnsafeModel(f"{path} is not JSON ({error}); download the model again") from error
    if _names_code(config):
        raise UnsafeModel(
            f"{path} has auto_map: loading it would run code that came with the model. "
            "Nightschool never does; use a model whose architecture transformers itself knows"
        )


def _names_code(value: Any) -> bool:
    """Return whether `auto_map` or `custom_pipelines` is a key at any depth."""
    if isinstance(value, dict):
        return bool({"auto_map", "custom_pipelines"} & value.keys()) or any(
            _names_code(part) for part in value.values()
        )
    return isinstance(value, list) and any(_names_code(part) for part in value)


def _check_names(path: Path) -> None:
    """Refuse Python files, and pickles in place of safetensors."""
    files = sorted(file for file in path.rglob("*") if file.is_file() or file.is_symlink())
    code = [file.name for file in files if file.suffix == ".py"]
    if code:
        raise UnsafeModel(
            f"{path} holds Python code ({code[0]}); remove it: Nightschool runs no code of a model"
        )
    pickles = [file.name for file in files if file.suffix.lower() in PICKLE_SUFFIXES]
    safe = any(file.suffix == ".safetensors" for file in files)
    if pickles and not safe:
        raise UnsafeModel(
            f"{path} offers its weights only as a pickle ({pickles[0]}), which can run code when read; "
            "convert it to safetensors first"
        )
    if not safe:
        raise UnsafeModel(f"{path} holds no *.safetensors file; download the model again")


def check_safetensors(path: Path) -> None:
    """Raise `UnsafeModel` unless the file's content is safetensors."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise UnsafeModel(f"{path} is not safetensors: {_actual_format(start)}")
        raw = file.read(length)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise UnsafeModel(f"{path} is not safetensors: its header is not JSON; download it again") from error
    if not isinstance(header, dict):
        raise UnsafeModel(f"{path} is not safetensors: its header is not an object; download it again")
    _check_offsets(path, header, size - 8 - length)


def _actual_format(start: bytes) -> str:
    """Return a phrase that says what a file with these first bytes really is, and the cure."""
    if start[:2] == b"PK":
        return "it is a zip file as torch.save writes, renamed; convert it"
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "it is a pickle, renamed; convert it"
    return "its header length is impossible; download it again"


def _check_offsets(path: Path, header: dict[str, Any], size: int) -> None:
    """Refuse a safetensors file in which a tensor lies past the end, or has no valid place.

    `size` is the number of bytes after the header.
    """
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(end) is int for end in offsets):
            raise UnsafeModel(f"{path} is not safetensors: {name!r} has no offsets; download it again")
        if not 0 <= offsets[0] <= offsets[1] <= size:
            raise UnsafeModel(f"{path} is cut short: {name!r} lies past its end; download it again")
