"""The trash of the checkpoint files: files that a sweep took away, kept for some days under their own names.

Invariant: a file is in the trash, durably, before it leaves its place. So a crash leaves it in one of the two
places or in both, and never in none. This module does not know why a file was swept.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from time import time

from store.files import durable

DAY_S = 24 * 60 * 60.0
"""Seconds in a day."""


class Trash:
    """The files that were swept from the folders of one checkpoint store.

    Args:
        folder: The folder of the trash; it is made when it is first used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def files(self) -> list[Path]:
        """Return the files in the trash, sorted by name."""
        return sorted(path for path in self.folder.glob("*") if path.is_file())

    @property
    def nbytes(self) -> int:
        """Bytes of the files in the trash."""
        return sum(path.stat().st_size for path in self.files())

    def take(self, paths: Iterable[Path]) -> None:
        """Move these files into the trash; a file of the same name that is there already is replaced."""
        taken = [path for path in paths if path.exists()]
        if taken:
            durable.make_folder(self.folder, 0o700)
        for path in taken:
            place = self.folder / path.name
            place.unlink(missing_ok=True)
            durable.link(path, place)
            os.utime(place)  # its age counts from now on
        if taken:
            durable.sync_directory(self.folder)
        durable.remove(taken, "orphans")

    def empty(self, days: float = 0.0) -> int:
        """Delete the files that are in the trash for at least so many days; return their bytes."""
        now = time()
        old = [path for path in self.files() if now - path.stat().st_mtime >= days * DAY_S]
        freed = sum(path.stat().st_size for path in old)
        durable.remove(old, "trash")
        return freed

    def put_back(self, places: Iterable[Path]) -> list[Path]:
        """Move the files at these places back from the trash, if nothing is there; return which came back."""
        back = [path for path in places if not path.exists() and (self.folder / path.name).is_file()]
        for path in back:
            durable.link(self.folder / path.name, path)
        for folder in sorted({path.parent for path in back}):
            durable.sync_directory(folder)
        durable.remove([self.folder / path.name for path in back], "trash")
        return back
