"""The shared weights: one memory-mapped file that holds the served weights, and its manifest.

The server creates the file. The trainer attaches to it and writes the weights in place, so an update is
served as soon as it is written. The file has one header page, then every tensor at a multiple of 256 bytes.
For weights on a CUDA device the file has only the header: the tensors stay where they are, other processes
open them through `cuda_ipc`, and their offsets are those that they would have in the file.

Invariant: the header describes the weights (see `header`). The manifest has one entry for each parameter, by
its name in Hugging Face's model. If a server keeps several parameters in one tensor, their entries lie inside
that tensor. This module knows nothing about model families.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch

from agents.model.weights.header import HEADER_BYTES, Header
from agents.model.weights.rwlock import RWLock
from corpus.errors import IntegrityFault

ALIGNMENT = 256
"""Tensors start at multiples of this number of bytes, so that every kernel can load them aligned."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The place of one named tensor in the shared weights."""

    name: str
    offset: int
    """Bytes from the start of the file."""
    shape: tuple[int, ...]
    dtype: str
    """Name of the type in torch, such as `float32`."""


Naming = Callable[[tuple["Entry", ...]], tuple["Entry", ...]]
"""A function that takes the entries of a server's own tensors and returns the entries of the manifest, as in
`vllm/weights/families.py`."""


class SharedWeights:
    """Named tensors in shared memory.

    `tensors[name]` is a view: a write to it changes the served weights.
    """

    def __init__(
        self,
        path: Path,
        nbytes: int,
        entries: tuple[Entry, ...],
        model: str,
        on_device: Mapping[int, torch.Tensor] | None = None,
    ) -> None:
        """Map the file at `path`; use `create` or `attach` instead of this.

        Args:
            path: The file of the shared weights.
            nbytes: Bytes of header and tensors.
            entries: The entries of the manifest.
            model: The name of the model.
            on_device: The tensors on a CUDA device, contiguous, by the offsets that they would have in the
                file; None if the tensors are in the file.
        """
        self.path = path
        self.nbytes = nbytes
        self.entries = entries
        self.model = model
        self._on_device = on_device
        in_file = HEADER_BYTES if on_device else nbytes
        self._storage = cast(torch.UntypedStorage, torch.UntypedStorage.from_file(str(path), True, in_file))
        self.inode = os.stat(path).st_ino
        self._header = Header(path)
        self.lock = RWLock(path)
        """The lock between forward passes and changes of the weights."""
        self.tensors: dict[str, torch.Tensor] = {entry.name: self._view(entry) for entry in entries}

    @classmethod
    def create(
        cls,
        path: Path,
        tensors: Mapping[str, torch.Tensor],
        *,
        model: str,
        naming: Naming = lambda entries: entries,
        adopt: bool = False,
    ) -> "SharedWeights":
        """Copy the tensors into a new file at `path` that only this user can open, and write the manifest.

        Tensors that share memory (tied weights) are stored once and have an entry for each name. With `adopt`
        each tensor becomes a view of the file as soon as it is copied, so the model is never in memory twice.
        `naming` makes the manifest's entries; without it they have the names in `tensors`.
        """
        laid_out, nbytes = _lay_out(tensors)
        entries = naming(laid_out)
        on_device = _on_device(laid_out, tensors)
        # The old file is replaced: truncating it would kill the processes that map it (SIGBUS).
        unfinished = path.with_suffix(".filling")
        unfinished.unlink(missing_ok=True)
        descriptor = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        os.ftruncate(descriptor, HEADER_BYTES if on_device else nbytes)
        os.close(descriptor)
        weights = cls(unfinished, nbytes, entries, model, on_device)
        weights.path = weights.lock.path = path
        if on_device:
            from agents.model.weights.cuda_ipc import SOCKET_NAME, IpcExporter

            IpcExporter(path.with_name(SOCKET_NAME), list(on_device.values()))
        for entry in () if on_device else laid_out:
            view, tensor = weights._view(entry), tensors[entry.name]
            view.copy_(tensor.detach())
            if adopt:
                tensor.data = view
        weights._header.mark_complete()
        manifest = {"nbytes": nbytes, "model": model, "entries": [asdict(entry) for entry in entries]}
        manifest["lent"] = list(on_device or ())
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(manifest))
        path.with_suffix(".json").unlink(missing_ok=True)
        os.replace(unfinished, path)
        os.replace(temporary, path.with_suffix(".json"))
        return weights

    @classmethod
    def attach(cls, path: Path) -> "SharedWeights":
        """Return the shared weights that another process has created at `path`."""
        try:
            manifest = json.loads(path.with_suffix(".json").read_text())
        except FileNotFoundError:
            raise IntegrityFault(
                f"there are no shared weights at {path}; start the model server first"
            ) from None
        offsets, nbytes = manifest["lent"], manifest["nbytes"]
        if path.stat().st_size != (HEADER_BYTES if offsets else nbytes):
            raise IntegrityFault(f"{path} is not as long as its manifest says; restart the service")
        entries = tuple(Entry(**{**entry, "shape": tuple(entry["shape"])}) for entry in manifest["entries"])
        on_device = _open_on_device(path, offsets) if offsets else None
        weights = cls(path, nbytes, entries, manifest["model"], on_device)
        if not weights._header.complete:
            raise IntegrityFault(f"{path} does not hold shared weights of Nightschool; restart the service")
        return weights

    def _view(self, entry: Entry) -> torch.Tensor:
        """Return the tensor that this entry describes, as a view of the shared memory."""
        storage, offset = self._storage, entry.offset
        if self._on_device:
            start = max(place for place in self._on_device if place <= entry.offset)
            whole = self._on_device[start]
            storage = whole.untyped_storage()
            offset = int(whole.storage_offset()) * whole.itemsize + entry.offset - start
        return _tensor_at(storage, getattr(torch, entry.dtype), offset, entry.shape)

    @property
    def replaced(self) -> bool:
        """Whether the server has since replaced or removed the file, so that these weights are not served."""
        try:
            return os.stat(self.path).st_ino != self.inode
        except FileNotFoundError:
            return True

    @property
    def version(self) -> int:
        """Number of changes since the shared weights were created."""
        return self._header.version

    def bump(self) -> int:
        """Record a change of the weights; return the new version."""
        weights = next(iter(self.tensors.values()), None)
        if weights is not None and weights.is_cuda:
            torch.cuda.synchronize(weights.device)  # the device makes the change some time after the call
        return self._header.bump()

    @property
    def dirty(self) -> bool:
        """Whether the weights may differ from every kept checkpoint."""
        return self._header.dirty

    @dirty.setter
    def dirty(self, value: bool) -> None:
        self._header.dirty = value

    @property
    def holds(self) -> str:
        """Id of the checkpoint whose weights these are; "" during an update."""
        return self._header.holds

    @holds.setter
    def holds(self, checkpoint_id: str) -> None:
        self._header.holds = checkpoint_id


def _lay_out(tensors: Mapping[str, torch.Tensor]) -> tuple[tuple[Entry, ...], int]:
    """Return an entry for each tensor, and the size in bytes of the file that holds them all."""
    offset, placed, entries = HEADER_BYTES, dict[tuple[int, torch.Size, torch.dtype], int](), list[Entry]()
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.dtype)
        if place not in placed:
            placed[place] = offset
            size = tensor.numel() * tensor.element_size()
            offset += -(-size // ALIGNMENT) * ALIGNMENT
        entries.append(
            Entry(name=name, offset=placed[place], shape=tuple(tensor.shape), dtype=str(tensor.dtype)[6:])
        )
    return tuple(entries), offset


def _on_device(
    laid_out: tuple[Entry, ...], tensors: Mapping[str, torch.Tensor]
) -> dict[int, torch.Tensor] | None:
    """Return the tensors by their offsets in `laid_out` if they are on a CUDA device; else None."""
    if not any(tensor.is_cuda for tensor in tensors.values()):
        return None
    from agents.model.weights import cuda_ipc

    cuda_ipc.require_exportable(list(tensors.values()))
    return {entry.offset: tensors[entry.name].detach() for entry in laid_out}


def _open_on_device(path: Path, offsets: list[int]) -> dict[int, torch.Tensor]:
    """Return the tensors that the server at `path` exports, by their offsets, which are in the same order."""
    from agents.model.weights import cuda_ipc

    return dict(zip(offsets, cuda_ipc.open_tensors(path.with_name(cuda_ipc.SOCKET_NAME)), strict=True))


def _tensor_at(
    storage: torch.UntypedStorage, dtype: torch.dtype, offset: int, shape: tuple[int, ...]
) -> torch.Tensor:
    """Return the contiguous tensor of this dtype and shape that begins `offset` bytes into the storage."""
    strides = [1]
    for length in shape[:0:-1]:
        strides.insert(0, strides[0] * length)
    return torch.empty(0, dtype=dtype, device=storage.device).set_(
        storage, offset // dtype.itemsize, shape, strides[: len(shape)]
    )
