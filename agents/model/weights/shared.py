"""The shared mapping: one file of memory that holds the served weights, and its manifest.

The server creates it, the trainer attaches to it and writes it in place, so an update is served the moment
it is made. Layout: one header page, then every tensor at a multiple of 256 bytes. Of weights on a CUDA device the
file has only the header: they stay where they are and are lent to whoever attaches (`cuda.py`), and the offsets count
as if they had been laid out.

Invariant: what the header says is true (see `header.py`). The manifest's names are those of Hugging Face: a server
that keeps several parameters in one tensor says so by entries that lie inside it. Knows no model family.
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
"""Tensors start at multiples of this many bytes, so that any kernel may load them aligned."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where one named tensor lies in the mapping."""

    name: str
    offset: int
    """Bytes from the start of the file."""
    shape: tuple[int, ...]
    dtype: str
    """As in `torch.float32` without the prefix."""


Naming = Callable[[tuple["Entry", ...]], tuple["Entry", ...]]
"""What the manifest is to say, of how the tensors lie: see `vllm/families.py`."""


class SharedWeights:
    """Named tensors in a shared mapping.

    `tensors[name]` are views: writing to them is writing to what is served.
    """

    def __init__(
        self,
        path: Path,
        nbytes: int,
        entries: tuple[Entry, ...],
        model: str,
        lent: Mapping[int, torch.Tensor] | None = None,
    ) -> None:
        """`lent`: the tensors that are not in the file, contiguous ones, by where they would begin in it."""
        self.path = path
        self.nbytes = nbytes
        self.entries = entries
        self.model = model
        self._lent = lent
        in_file = HEADER_BYTES if lent else nbytes
        self._storage = cast(torch.UntypedStorage, torch.UntypedStorage.from_file(str(path), True, in_file))
        self.inode = os.stat(path).st_ino
        self._header = Header(path)
        self.lock = RWLock(path)
        """Of those who read the weights and whoever changes them."""
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
        """Lay the tensors out in a new mapping at `path`, for this user alone, and write the manifest.

        Tensors that share memory (tied weights) are laid out once and named twice. With `adopt` each tensor is
        made a view of the mapping as soon as it is copied, so that no two copies of the model are held at once.
        """
        served, nbytes = _lay_out(tensors)
        entries = naming(served)
        lent = _lendable(served, tensors)
        # A new file under the old name: whoever still maps the old one must not have it cut short (SIGBUS).
        filling = path.with_suffix(".filling")
        filling.unlink(missing_ok=True)
        descriptor = os.open(filling, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        os.ftruncate(descriptor, HEADER_BYTES if lent else nbytes)
        os.close(descriptor)
        weights = cls(filling, nbytes, entries, model, lent)
        weights.path = weights.lock.path = path
        if lent:
            from agents.model.weights.cuda_ipc import SOCKET_NAME, IpcExporter

            IpcExporter(path.with_name(SOCKET_NAME), list(lent.values()))
        for entry in () if lent else served:
            view, tensor = weights._view(entry), tensors[entry.name]
            view.copy_(tensor.detach())
            if adopt:
                tensor.data = view
        weights._header.mark()
        manifest = {"nbytes": nbytes, "model": model, "entries": [asdict(entry) for entry in entries]}
        manifest["lent"] = list(lent or ())
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(manifest))
        path.with_suffix(".json").unlink(missing_ok=True)
        os.replace(filling, path)
        os.replace(temporary, path.with_suffix(".json"))
        return weights

    @classmethod
    def attach(cls, path: Path) -> "SharedWeights":
        """Map what `create` laid out at `path`."""
        try:
            manifest = json.loads(path.with_suffix(".json").read_text())
        except FileNotFoundError:
            raise IntegrityFault(f"there is no mapping at {path}; start the model server first") from None
        places = manifest["lent"]
        if path.stat().st_size != (HEADER_BYTES if places else manifest["nbytes"]):
            raise IntegrityFault(f"{path} is not as long as its manifest says; restart the service")
        entries = tuple(Entry(**{**entry, "shape": tuple(entry["shape"])}) for entry in manifest["entries"])
        lent = _borrowed(path, places) if places else None
        weights = cls(path, manifest["nbytes"], entries, manifest["model"], lent)
        if not weights._header.marked:
            raise IntegrityFault(f"{path} is no mapping of Nightschool's; restart the service")
        return weights

    def _view(self, entry: Entry) -> torch.Tensor:
        """The tensor where this entry says."""
        storage, offset = self._storage, entry.offset
        if self._lent:
            start = max(place for place in self._lent if place <= entry.offset)
            whole = self._lent[start]
            storage, offset = (
                whole.untyped_storage(),
                int(whole.storage_offset()) * whole.itemsize + entry.offset - start,
            )
        return _at(storage, getattr(torch, entry.dtype), offset, entry.shape)

    @property
    def replaced(self) -> bool:
        """Whether the server has since made another mapping at this path: then nobody serves this one."""
        try:
            return os.stat(self.path).st_ino != self.inode
        except FileNotFoundError:
            return True

    @property
    def version(self) -> int:
        """How often the weights have changed since the mapping was made."""
        return self._header.version

    def bump(self) -> int:
        """Say that the weights have changed; returns the new version."""
        if (weights := next(iter(self.tensors.values()), None)) is not None and weights.is_cuda:
            torch.cuda.synchronize(weights.device)  # they have changed when the device has done it
        return self._header.bump()

    @property
    def dirty(self) -> bool:
        """Whether the weights may be those of no kept checkpoint."""
        return self._header.dirty

    @dirty.setter
    def dirty(self, value: bool) -> None:
        self._header.dirty = value

    @property
    def holds(self) -> str:
        """Id of the checkpoint whose weights these are; "" in mid-update."""
        return self._header.holds

    @holds.setter
    def holds(self, checkpoint_id: str) -> None:
        self._header.holds = checkpoint_id


def _lay_out(tensors: Mapping[str, torch.Tensor]) -> tuple[tuple[Entry, ...], int]:
    """An entry for each tensor, and the size of the file that holds them."""
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


def _lendable(
    served: tuple[Entry, ...], tensors: Mapping[str, torch.Tensor]
) -> dict[int, torch.Tensor] | None:
    """The tensors by their offsets, if they are on CUDA devices; those can only be lent."""
    if not any(tensor.is_cuda for tensor in tensors.values()):
        return None
    from agents.model.weights import cuda_ipc

    cuda_ipc.require_exportable(list(tensors.values()))
    return {entry.offset: tensors[entry.name].detach() for entry in served}


def _borrowed(path: Path, places: list[int]) -> dict[int, torch.Tensor]:
    """What the server of this mapping lends, by its offsets."""
    from agents.model.weights import cuda_ipc

    return dict(zip(places, cuda_ipc.open_tensors(path.with_name(cuda_ipc.SOCKET_NAME)), strict=True))


def _at(
    storage: torch.UntypedStorage, dtype: torch.dtype, offset: int, shape: tuple[int, ...]
) -> torch.Tensor:
    """The contiguous tensor of this dtype and shape, `offset` bytes into the storage."""
    strides = [1]
    for length in shape[:0:-1]:
        strides.insert(0, strides[0] * length)
    return torch.empty(0, dtype=dtype, device=storage.device).set_(
        storage, offset // dtype.itemsize, shape, strides[: len(shape)]
    )
