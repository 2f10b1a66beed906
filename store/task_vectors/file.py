"""A task vector of checkpoint files: its figures, and the file that holds it.

Invariant: reads one tensor after the other, so that the vector is never whole in memory; a file under its final
name is whole, and none that is there is overwritten. Knows no ledger.
"""

import os
import secrets
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from corpus.errors import UsageError
from store.checkpoints.store import CheckpointStore
from store.files.durable import sync_directory
from store.task_vectors.arithmetic import Floats, changes, extent
from store.task_vectors.recipe import Extent, Part
from store.tensors.changes import kind_of
from store.tensors.raw import head, in_order


class Vectors:
    """One vector, or several and what they come to, as checkpoint files have them; what is read is hashed first."""

    def __init__(
        self, store: CheckpointStore, parts: list[Part], *, method: str, density: float | None
    ) -> None:
        self._ends = [(store.load_weights(part.start), store.load_weights(part.end)) for part in parts]
        self._weights = [part.weight for part in parts]
        self._method, self._density = method, density or 1.0
        end = self._ends[0][1]
        self.shapes = {name: end[name].shape for name in sorted(end)}

    def __iter__(self) -> Iterator[tuple[str, Floats]]:
        yield from changes(list(self.shapes), self._ends, self._weights, self._method, self._density)

    def by_kind(self) -> dict[str, Extent]:
        """How much it changes of each kind of weight, the most changed first."""
        found: dict[str, Extent] = {}
        for name, change in self:
            kind = kind_of(name)
            found[kind] = found.get(kind, Extent()) + extent(change)
        return dict(sorted(found.items(), key=lambda item: (-item[1].norm, item[0])))

    def write(self, path: Path) -> int:
        """Write it as float32 safetensors; returns the bytes. A file that is there is left alone."""
        kinds = {name: ("F32", shape) for name, shape in self.shapes.items()}
        found = changes(in_order(kinds), self._ends, self._weights, self._method, self._density)
        return write_new(path, chain([head(kinds)], (change.tobytes() for _, change in found)))


def write_new(path: Path, parts: Iterable[bytes]) -> int:
    """Write a file that must not be there yet, whole or not at all; returns its bytes."""
    _free(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as stream:
            nbytes = sum(stream.write(part) for part in parts)
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(temporary, path)  # unlike a rename it overwrites nothing
        except FileExistsError:
            _free(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)
    return nbytes


def _free(path: Path) -> None:
    """Refuse a path where something is, or whose folder is not there."""
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path} is there already, and is not overwritten: choose another name")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent} to write into: make it first")
