"""The export of a checkpoint as a Hugging Face directory: the model's directory, with other weights.

Each file of weights in the model directory is written again, with the same name and the same tensors; their
values are the checkpoint's, bit for bit. Configuration, tokenizer and similar files are copied.

Invariant: the directory appears under its name complete, or not at all: it is written under another name, and
renamed once all of it is on disk. No value changes: if a tensor's type in the model directory would lose
bits, the tensor is written in the checkpoint's type, and the configuration names that type. This module knows
nothing about the ledger.
"""

import fcntl
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from agents.model.describe import language_model_tensors, text_config
from corpus.aliases import Json
from corpus.errors import GateRefused, IntegrityFault, UsageError
from store.checkpoints.store import SPARE_BYTES
from store.files.durable import sync_directory
from store.tensors.numbers import convert, converts_exactly
from store.tensors.raw import ITEM_BYTES, RawTensor, parse

COPIED = frozenset({".json", ".jinja", ".txt", ".model", ".md", ".tiktoken", ""})
"""Suffixes of the files that are copied; no weights and no code have them."""
TEMPLATES = "additional_chat_templates"
"""The only folder that is copied."""
TIED = ("lm_head.weight", "model.embed_tokens.weight")
"""Two names of one tensor if the configuration says `tie_word_embeddings`; a checkpoint has one of them."""
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, kw_only=True)
class PlannedFile:
    """One file of weights to write."""

    name: str
    metadata: Any
    """The file's own `__metadata__`, if it has any."""
    tensors: dict[str, tuple[str, RawTensor]]
    """For each tensor, by its name in the file: the type to write, and the values."""

    @property
    def nbytes(self) -> int:
        """Size of the file's tensors in bytes."""
        return sum(ITEM_BYTES[dtype] * prod(raw.shape) for dtype, raw in self.tensors.values())


@dataclass(kw_only=True)
class ExportPlan:
    """The files that an export writes."""

    model_dir: Path
    weights: list[PlannedFile] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)
    """Names of the tensors that the checkpoint lacks; their values come from the model directory."""
    retyped: list[str] = field(default_factory=list)
    """Names of the tensors that are written in the checkpoint's type, because the type in the model directory
    would lose bits."""


def plan_export(model_dir: Path, weights: Mapping[str, RawTensor]) -> ExportPlan:
    """Return the plan for an export: the model directory's files, with a checkpoint's weights in them.

    Args:
        model_dir: The directory of the model that the checkpoint belongs to.
        weights: The checkpoint's weights, by their names in the causal language model; tied weights once.

    Raises:
        IntegrityFault: The weights do not fit the files of the directory.
    """
    plan, left = ExportPlan(model_dir=model_dir), set(weights)
    tied = bool(text_config(model_dir).get("tie_word_embeddings"))
    for path in sorted(model_dir.glob("*.safetensors")):
        _, own = parse(path)
        tensors = {}
        for name in own:
            source = _checkpoint_name(weights, name, tied=tied)
            left.discard(source or "")
            tensors[name] = _choose(plan, name, own[name], weights[source] if source else None)
        plan.weights.append(PlannedFile(name=path.name, metadata=_metadata(path), tensors=tensors))
    if left:
        raise IntegrityFault(
            f"the checkpoint has {', '.join(sorted(left)[:4])}, which the files in {model_dir} lack: set "
            "model.path to the directory that this home was initialised with"
        )
    return plan


def export(plan: ExportPlan, directory: Path) -> list[Json]:
    """Write `directory` as planned; return the name, size in bytes and SHA-256 of each file in it.

    Raises:
        UsageError: The directory exists and is not empty.
        GateRefused: The disk has too little space for it.
    """
    _require_free_name(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    others = _copied_files(plan.model_dir)
    _require_space(plan, others, directory.parent)
    with _partial(directory) as partial:
        written = [_write(partial / file.name, _pieces(file)) for file in plan.weights]
        for path in others:
            name = path.relative_to(plan.model_dir)
            (partial / name).parent.mkdir(exist_ok=True)
            written.append({**_write(partial / name, [_content(plan, path)]), "name": str(name)})
        for folder in {path.parent for path in partial.rglob("*")}:
            sync_directory(folder)
        os.rename(partial, directory)
    sync_directory(directory.parent)
    return written


def _checkpoint_name(weights: Mapping[str, RawTensor], name: str, *, tied: bool) -> str | None:
    """Return the checkpoint's name for the tensor that a file calls `name`; None if the checkpoint lacks it.

    `tied` is whether the model's configuration ties its embeddings.
    """
    for own in language_model_tensors({name: None}):
        if own in weights:
            return own
        if tied and own in TIED:
            return next((other for other in TIED if other in weights), None)
    return None


def _choose(plan: ExportPlan, name: str, own: RawTensor, wanted: RawTensor | None) -> tuple[str, RawTensor]:
    """Return the type and the values to write for a tensor of a file, and note exceptions in the plan.

    Args:
        plan: The plan, whose `copied` and `retyped` get the tensor's name if they apply.
        name: The tensor's name in the file.
        own: The tensor in the file.
        wanted: The tensor in the checkpoint; None if the checkpoint lacks it.
    """
    if wanted is None:
        plan.copied.append(name)
        return own.dtype, own
    if wanted.shape != own.shape:
        raise IntegrityFault(
            f"{name} is {list(wanted.shape)} in the checkpoint and {list(own.shape)} in {plan.model_dir}: "
            "set model.path to the directory that this home was initialised with"
        )
    if converts_exactly(wanted, own.dtype):
        return own.dtype, wanted
    plan.retyped.append(name)
    return wanted.dtype, wanted


def _metadata(path: Path) -> Any:
    """Return the `__metadata__` of a safetensors file; None if it has none."""
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        return json.loads(stream.read(length)).get("__metadata__")


def _pieces(file: PlannedFile) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a file of weights; tensors of wider types come first, so that all are aligned."""
    order = sorted(file.tensors, key=lambda name: -ITEM_BYTES[file.tensors[name][0]])
    header: dict[str, Any] = {} if file.metadata is None else {"__metadata__": file.metadata}
    offset = 0
    for name in order:
        dtype, raw = file.tensors[name]
        end = offset + ITEM_BYTES[dtype] * prod(raw.shape)
        header[name] = {"dtype": dtype, "shape": list(raw.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text))
    yield text
    for name in order:
        yield from convert(file.tensors[name][1], file.tensors[name][0])


def _copied_files(model_dir: Path) -> list[Path]:
    """Return the files of the model directory that are copied, in the order of their names."""
    paths = [path for path in model_dir.iterdir() if path.suffix in COPIED and not path.name.startswith(".")]
    paths += (model_dir / TEMPLATES).glob("*.jinja")
    stale = (".bin.index.json", ".h5.index.json", ".msgpack.index.json")
    return sorted(path for path in paths if path.is_file() and not path.name.endswith(stale))


def _content(plan: ExportPlan, path: Path) -> bytes:
    """Return the content of a copied file.

    If tensors are written in another type, the content names the new type and the new total size.
    """
    if not plan.retyped or path.name not in ("config.json", _INDEX):
        return path.read_bytes()
    content = json.loads(path.read_bytes())
    if path.name == _INDEX:
        size = sum(file.nbytes for file in plan.weights)
        content["metadata"] = {**content.get("metadata", {}), "total_size": size}
    else:
        types = {dtype for file in plan.weights for dtype, _ in file.tensors.values()}
        widest = max(types & _DTYPES.keys(), key=lambda dtype: (ITEM_BYTES[dtype], dtype))
        for part in (content, content.get("text_config", content)):
            part.pop("torch_dtype", None)
            part["dtype"] = _DTYPES[widest]
    return json.dumps(content, indent=2).encode()


def _require_free_name(directory: Path) -> None:
    if directory.is_dir() and not any(directory.iterdir()):
        return
    if directory.is_symlink() or directory.exists():
        raise UsageError(f"{directory} exists and is not an empty directory: give another name")


def _require_space(plan: ExportPlan, others: Iterable[Path], place: Path) -> None:
    size = sum(file.nbytes for file in plan.weights) + sum(path.stat().st_size for path in others)
    needed, free = size + SPARE_BYTES, shutil.disk_usage(place).free
    if free < needed:
        raise GateRefused(
            f"the directory needs {needed / 1e6:.0f} MB in {place} and {free / 1e6:.0f} MB are free: "
            "free some space, or give a place on another disk"
        )


@contextmanager
def _partial(directory: Path) -> Iterator[Path]:
    """Yield an empty directory beside `directory`; at the end of the block remove it, unless it was renamed.

    If a killed export has left such a directory, it is emptied and used again.
    """
    partial = directory.with_name(f"{directory.name}.partial")
    partial.mkdir(exist_ok=True)
    descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise GateRefused(
                f"another export is writing {directory}: wait for it, or give another name"
            ) from None
        for path in partial.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    finally:
        os.close(descriptor)


def _write(path: Path, parts: Iterable[bytes | memoryview]) -> Json:
    """Write a file and sync it to disk; return its name, size in bytes and SHA-256."""
    digest, nbytes = hashlib.sha256(), 0
    with path.open("xb") as stream:
        for part in parts:
            digest.update(part)
            nbytes += stream.write(part)
        stream.flush()
        os.fsync(stream.fileno())
    return {"name": path.name, "bytes": nbytes, "sha256": digest.hexdigest()}
