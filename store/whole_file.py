"""A file that is replaced whole: whoever reads it sees what was there before, or what is there now.

Invariant: when `write` returns, the content survives a power cut. Knows no format.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from store.checkpoints import sync_directory


def write(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write these bytes under this name; one writer at a time."""
    partial = path.with_name(f"{path.name}.tmp")
    try:
        with partial.open("wb") as stream:
            stream.writelines(pieces)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_directory(path.parent)
