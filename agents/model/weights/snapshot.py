"""Snapshots of the shared weights as raw tensors, and the restore of a checkpoint into the shared weights.

Invariant: `restore` writes nothing unless the whole checkpoint is undamaged and fits the shared weights.
While it writes, the shared weights are dirty, hold no checkpoint, and no forward pass reads them. A tensor
with several names (tied weights) is stored once, under its first name; the others are aliases. This module
knows nothing about model families or the ledger.
"""

from collections.abc import Mapping
from contextlib import ExitStack

import torch

from agents.model.weights.shared import Entry, SharedWeights
from corpus.errors import IntegrityFault
from store.checkpoints.store import CheckpointStore
from store.files.failpoints import reach
from store.tensors.raw import RawTensor, specs_of

_FORMAT_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_TYPES = {name: dtype for dtype, name in _FORMAT_NAMES.items()}


def to_raw(tensor: torch.Tensor) -> RawTensor:
    """Return a tensor as a raw tensor; it shares the memory of a contiguous tensor on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    data = flat.view(torch.uint8).numpy().data if flat.numel() else b""
    return RawTensor(dtype=_FORMAT_NAMES[tensor.dtype], shape=tuple(tensor.shape), data=data)


def from_raw(raw: RawTensor) -> torch.Tensor:
    """Return a new tensor with a copy of the raw tensor's bytes."""
    dtype = _TYPES[raw.dtype]
    if not raw.data:
        return torch.empty(raw.shape, dtype=dtype)
    return torch.frombuffer(bytearray(raw.data), dtype=dtype).reshape(raw.shape)


def unique_entries(shared: SharedWeights) -> list[Entry]:
    """Return the manifest's entries without aliases: for each tensor the entry with its first name."""
    first: dict[int, Entry] = {}
    for entry in shared.entries:
        first.setdefault(entry.offset, entry)
    return list(first.values())


def raw_weights(shared: SharedWeights) -> dict[str, RawTensor]:
    """Return every tensor of the shared weights by its first name, as a raw tensor."""
    return {entry.name: to_raw(shared.tensors[entry.name]) for entry in unique_entries(shared)}


def restore(
    shared: SharedWeights, store: CheckpointStore, checkpoint_id: str, *, clean: bool, force: bool = False
) -> bool:
    """Make the shared weights exactly those of a checkpoint; return whether anything had to be written.

    Args:
        shared: The shared weights.
        store: The store with the checkpoint's files.
        checkpoint_id: The checkpoint.
        clean: Whether this is the active checkpoint, so that the weights are clean afterwards.
        force: Whether to write even if the header says that the weights are this checkpoint's already.

    Raises:
        IntegrityFault: The checkpoint is damaged or does not fit the shared weights.
    """
    held = shared.holds
    written = force or held != checkpoint_id
    if written:
        with ExitStack() as lock:

            def begin() -> None:  # a second call finds the lock held by this thread
                lock.enter_context(shared.lock.write_lock())
                shared.dirty = True
                shared.holds = ""
                reach("restore", "marked")

            own = _raw_in_memory(shared)
            if own is not None and specs_of(own) == store.specs(checkpoint_id):
                store.put_weights(checkpoint_id, own, begin, held_id="" if force else held)
            else:
                tensors = store.load_weights(checkpoint_id)
                _require_fit(shared, tensors, checkpoint_id)
                begin()
                for name, raw in tensors.items():
                    shared.tensors[name].copy_(from_raw(raw))
            reach("restore", "written")
            shared.bump()
            shared.holds = checkpoint_id
            reach("restore", "held")
    shared.dirty = not clean
    reach("restore", "settled")
    return written


def _raw_in_memory(shared: SharedWeights) -> dict[str, RawTensor] | None:
    """Return raw tensors whose bytes are the shared weights themselves; None if the weights are on a GPU."""
    if any(tensor.device.type != "cpu" for tensor in shared.tensors.values()):
        return None
    return raw_weights(shared)


def _require_fit(shared: SharedWeights, tensors: Mapping[str, RawTensor], checkpoint_id: str) -> None:
    """Raise `IntegrityFault` unless the checkpoint's tensors fit the shared weights without loss."""
    if differences := _differences(shared, tensors):
        raise IntegrityFault(
            f"checkpoint {checkpoint_id[:12]} does not fit the served model: "
            f"{'; '.join(differences[:8])}{' and more' if len(differences) > 8 else ''}; serve the model "
            "that it was made from, in a type that holds its values (--dtype float32 holds all)"
        )


def _differences(shared: SharedWeights, tensors: Mapping[str, RawTensor]) -> list[str]:
    """Return the reasons why these tensors do not fit the shared weights, one phrase each."""
    differences = []
    own = {entry.name: entry for entry in unique_entries(shared)}
    first = {entry.offset: entry.name for entry in own.values()}
    aliases = {entry.name: first[entry.offset] for entry in shared.entries if entry.name not in own}
    for name in sorted(own.keys() | tensors.keys()):
        if name not in tensors:
            differences.append(f"{name} is missing")
        elif name in aliases:  # the files of a tied model may have both names
            if tensors[name] != tensors.get(aliases[name]):
                differences.append(f"{name} is not equal to {aliases[name]}, to which it is tied")
        elif name not in own:
            differences.append(f"{name} is unknown")
        elif tensors[name].shape != own[name].shape:
            differences.append(f"{name} is {list(tensors[name].shape)}, not {list(own[name].shape)}")
        elif not _survives(tensors[name], getattr(torch, own[name].dtype)):
            differences.append(f"{name} is {tensors[name].dtype}, of which {own[name].dtype} would lose bits")
    return differences


def _survives(raw: RawTensor, dtype: torch.dtype) -> bool:
    """Return whether every value of `raw` stays the same in `dtype`, the type of the served tensor."""
    own = _TYPES[raw.dtype]
    if own == dtype:
        return True
    if not (own.is_floating_point and dtype.is_floating_point):
        return False
    if torch.promote_types(own, dtype) == dtype:
        return True
    values = from_raw(raw)
    return torch.equal(values.to(dtype).to(own), values)
