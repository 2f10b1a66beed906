"""The weights in the mapping as raw tensors, and back: what a checkpoint keeps and a rollback restores.

Invariant: `restore` writes nothing unless the whole checkpoint is undamaged and fits the mapping, and while
it writes the mapping is dirty and holds nothing, and no pass through the model reads it. Aliases (tied weights) are
kept once, under the first name. Knows no model family and no ledger.
"""

from collections.abc import Mapping
from contextlib import ExitStack

import torch

from agents.model.weights.shared import Entry, SharedWeights
from corpus.errors import IntegrityFault
from store.checkpoints.store import CheckpointStore
from store.files.failpoints import reach
from store.tensors.raw import RawTensor, kinds_of

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
    """A tensor's bytes; no copy for a contiguous one on the CPU, so do not write to it meanwhile."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    data = flat.view(torch.uint8).numpy().data if flat.numel() else b""
    return RawTensor(dtype=_FORMAT_NAMES[tensor.dtype], shape=tuple(tensor.shape), data=data)


def from_raw(raw: RawTensor) -> torch.Tensor:
    """A tensor of its own with these bytes."""
    dtype = _TYPES[raw.dtype]
    if not raw.data:
        return torch.empty(raw.shape, dtype=dtype)
    return torch.frombuffer(bytearray(raw.data), dtype=dtype).reshape(raw.shape)


def unique_entries(shared: SharedWeights) -> list[Entry]:
    """The entries of the mapping without aliases: the first name of each place."""
    first: dict[int, Entry] = {}
    for entry in shared.entries:
        first.setdefault(entry.offset, entry)
    return list(first.values())


def raw_weights(shared: SharedWeights) -> dict[str, RawTensor]:
    """Every tensor in the mapping, aliases once."""
    return {entry.name: to_raw(shared.tensors[entry.name]) for entry in unique_entries(shared)}


def restore(
    shared: SharedWeights, store: CheckpointStore, checkpoint_id: str, *, clean: bool, force: bool = False
) -> bool:
    """Make the mapping hold exactly this checkpoint's weights; returns whether anything was written.

    `settled` says that this is the active checkpoint: the mapping is clean afterwards. `force` writes even
    when the mapping says that it holds these weights.
    """
    held = shared.holds
    written = force or held != checkpoint_id
    if written:
        with ExitStack() as turn:

            def begin() -> None:  # where it is called twice, the turn is ours already
                turn.enter_context(shared.lock.write_lock())
                shared.dirty = True
                shared.holds = ""
                reach("restore", "marked")

            places = _places(shared)
            if places is not None and kinds_of(places) == store.kinds(checkpoint_id):
                store.put_weights(checkpoint_id, places, begin, held_id="" if force else held)
            else:
                tensors = store.load_weights(checkpoint_id)
                _require(shared, tensors, checkpoint_id)
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


def _places(shared: SharedWeights) -> dict[str, RawTensor] | None:
    """The mapping's own bytes, to be written; None where they are on a device."""
    if any(tensor.device.type != "cpu" for tensor in shared.tensors.values()):
        return None
    return raw_weights(shared)


def _require(shared: SharedWeights, tensors: Mapping[str, RawTensor], checkpoint_id: str) -> None:
    """Refuse tensors that are not the mapping's, or would lose bits in its types."""
    if differences := _differences(shared, tensors):
        raise IntegrityFault(
            f"checkpoint {checkpoint_id[:12]} does not fit the served model: "
            f"{'; '.join(differences[:8])}{' and more' if len(differences) > 8 else ''}; serve the model that "
            "it was made from, in a type that holds its values (--dtype float32 holds all)"
        )


def _differences(shared: SharedWeights, tensors: Mapping[str, RawTensor]) -> list[str]:
    """What keeps these tensors from being the mapping's, one line each."""
    found = []
    wanted = {entry.name: entry for entry in unique_entries(shared)}
    first = {entry.offset: entry.name for entry in wanted.values()}
    aliases = {entry.name: first[entry.offset] for entry in shared.entries if entry.name not in wanted}
    for name in sorted(wanted.keys() | tensors.keys()):
        if name not in tensors:
            found.append(f"{name} is missing")
        elif name in aliases:  # the files of a tied model may have both
            if tensors[name] != tensors.get(aliases[name]):
                found.append(f"{name} is not equal to {aliases[name]}, to which it is tied")
        elif name not in wanted:
            found.append(f"{name} is unknown")
        elif tensors[name].shape != wanted[name].shape:
            found.append(f"{name} is {list(tensors[name].shape)}, not {list(wanted[name].shape)}")
        elif not _survives(tensors[name], getattr(torch, wanted[name].dtype)):
            found.append(f"{name} is {tensors[name].dtype}, of which {wanted[name].dtype} would lose bits")
    return found


def _survives(raw: RawTensor, dtype: torch.dtype) -> bool:
    """Whether every value is the same in this type: a server may keep a tensor in another than its file has."""
    own = _TYPES[raw.dtype]
    if own == dtype:
        return True
    if not (own.is_floating_point and dtype.is_floating_point):
        return False
    if torch.promote_types(own, dtype) == dtype:
        return True
    values = from_raw(raw)
    return torch.equal(values.to(dtype).to(own), values)
