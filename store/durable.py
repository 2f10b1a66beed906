"""Files that are there whole under their name, or not at all.

A new file is written under a temporary name, synced, renamed, and its folder synced: data, then name. The system's
own calls are made one by one, so that a test can record them, or stop before any of them.

Invariant: after `keep` returns, the file outlives a loss of power; before it is called there is only a `*.tmp`.
Knows nothing of what is written.
"""

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class NewFile:
    """A file that is being written. Make one with `new_file`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor
        self._hash = hashlib.sha256()
        self.nbytes = 0

    @property
    def sha256(self) -> str:
        """Of what was written so far."""
        return self._hash.hexdigest()

    def write(self, data: bytes | memoryview) -> int:
        """Write all of it; returns the number of bytes."""
        rest = memoryview(data).cast("B")
        self._hash.update(rest)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        length = memoryview(data).nbytes
        self.nbytes += length
        return length

    def keep(self, name: str) -> Path:
        """Make it durable under this name in its folder, in place of what was there."""
        final = self._path.with_name(name)
        os.fsync(self._descriptor)
        os.replace(self._path, final)
        sync_directory(final.parent)
        return final


@contextmanager
def new_file(folder: Path) -> Iterator[NewFile]:
    """A file in this folder that goes again unless it is kept."""
    path = folder / f"{secrets.token_hex(8)}.tmp"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        yield NewFile(path, descriptor)
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)


def remove(paths: Iterable[Path]) -> None:
    """Remove these files, where they are there, for good."""
    folders = set()
    for path in paths:
        path.unlink(missing_ok=True)
        folders.add(path.parent)
    for folder in sorted(folders):
        sync_directory(folder)


def sync_directory(folder: Path) -> None:
    """Make what was renamed or removed in this folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
