"""Task vectors that are read from checkpoint files, and written to a file of their own.

Invariant: tensors are read one after the other, so that the whole vector is never in memory. A file under its
final name is whole, and no existing file is overwritten. This module knows nothing about the ledger.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from corpus.errors import UsageError
from store.checkpoints.store import CheckpointStore
from store.files.durable import new_file
from store.task_vectors.arithmetic import ChangeSize, Floats, Part, changes, size_of
from store.tensors.changes import kind_of
from store.tensors.raw import file_order, head


class MergedTaskVector:
    """One task vector or the merge of several, read from verified checkpoint files."""

    def __init__(
        self, store: CheckpointStore, parts: Sequence[Part], *, method: str, density: float | None
    ) -> None:
        self._ends = [(store.load_weights(part.start), store.load_weights(part.end)) for part in parts]
        self._weights = [part.weight for part in parts]
        self._method, self._density = method, density or 1.0
        end = self._ends[0][1]
        self.shapes = {name: end[name].shape for name in sorted(end)}

    def __iter__(self) -> Iterator[tuple[str, Floats]]:
        return self._changes(list(self.shapes))

    def by_kind(self) -> dict[str, ChangeSize]:
        """Return the size of the change by kind of weight, the most changed kind first."""
        sizes: dict[str, ChangeSize] = {}
        for name, change in self:
            kind = kind_of(name)
            sizes[kind] = sizes.get(kind, ChangeSize()) + size_of(change)
        return dict(sorted(sizes.items(), key=lambda item: (-item[1].norm, item[0])))

    def write(self, path: Path) -> int:
        """Write the vector as float32 safetensors to a new file; return the file's size in bytes."""
        specs = {name: ("F32", shape) for name, shape in self.shapes.items()}
        data = (change.tobytes() for _, change in self._changes(file_order(specs)))
        return write_new(path, chain([head(specs)], data))

    def _changes(self, names: Sequence[str]) -> Iterator[tuple[str, Floats]]:
        return changes(names, self._ends, self._weights, self._method, self._density)


def write_new(path: Path, parts: Iterable[bytes]) -> int:
    """Write these parts to a file that must not exist yet, whole or not at all; return its size in bytes."""
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent} to write into: make it first")
    if path.exists() or path.is_symlink():
        raise UsageError(_taken(path))
    with new_file(path.parent, "task vector", mode=0o666) as file:
        for part in parts:
            file.write(part)
        try:
            file.keep(path.name, replace=False)
        except FileExistsError:  # it appeared meanwhile
            raise UsageError(_taken(path)) from None
    return file.nbytes


def _taken(path: Path) -> str:
    return f"{path} exists already and is not overwritten: choose another name"
