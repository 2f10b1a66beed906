"""A folder that is there whole or not at all.

Invariant: under its final name the folder is complete and durable; what a killed process left of it is
removed by the next attempt.
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
    """Make a folder beside the target, and give it the target's name when the caller is done."""
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
        os.replace(partial, target)  # an empty folder of that name gives way
        sync_directory(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def require_free(target: Path) -> None:
    """Raise `UsageError` if something has this name already."""
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists() or target.is_symlink():
        raise UsageError(f"{target} exists already: name another folder, or remove this one first")


def require_room(folder: Path, nbytes: int) -> None:
    """Raise `GateRefused` unless this many bytes are free where the folder is."""
    free = shutil.disk_usage(folder).free
    if free < nbytes:
        raise GateRefused(
            f"the model needs {nbytes / 1e9:.1f} GB in {folder.parent}, and {free / 1e9:.1f} GB are free: "
            "free some room, or use another home"
        )
