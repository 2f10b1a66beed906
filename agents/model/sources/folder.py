"""Folders that are created whole or not at all.

Invariant: a folder with its final name is complete and synced to disk. If a killed process has left a partial
folder, the next attempt removes it.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from corpus.errors import GateRefused, UsageError
from store.files.durable import make_folder, sync_directory


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder beside the target; when the block ends without an error, rename it to the target."""
    require_free(target)
    make_folder(target.parent, 0o700)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    try:
        yield partial
        for file in filter(Path.is_file, partial.rglob("*")):
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_directory(partial)
        os.replace(partial, target)  # an empty folder of that name is replaced
        sync_directory(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def require_free(target: Path) -> None:
    """Raise `UsageError` if the target exists and is not an empty folder."""
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists() or target.is_symlink():
        raise UsageError(f"{target} exists already: name another folder, or remove this one first")


def require_room(folder: Path, nbytes: int) -> None:
    """Raise `GateRefused` unless the disk of the folder has `nbytes` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < nbytes:
        raise GateRefused(
            f"the model needs {nbytes / 1e9:.1f} GB in {folder.parent}, and {free / 1e9:.1f} GB are free: "
            "free some room, or use another home"
        )
