"""The rows of a program's SQLite database as lines of JSON.

Invariant: the database is never written to. It is opened read-only and immutable; if the program has it open
(a write-ahead log or a journal lies beside it), a copy of it is read. This module knows nothing about log
formats or the ledger.
"""

import io
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import quote

from corpus.errors import LogRefused
from corpus.formats.databases import known, query_of

MAGIC = b"SQLite format 3\0"
"""First bytes of a SQLite database."""

_BESIDE = ("-wal", "-journal")


class Rows(io.RawIOBase):
    """The rows of the tables that hold conversations, as lines of JSON; it can be read again from 0."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        self._rest = b""
        self._lines: Iterator[bytes] = iter(())
        try:
            self._open(path)
            self.seek(0)
            self._rest = next(self._lines, b"")  # a damaged database shows here
        except sqlite3.Error as error:
            self.close()
            raise LogRefused(f"a SQLite database that cannot be read: {error}") from None
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path) -> None:
        """Open the database, or a copy of it if it is in use, and find its tables."""
        how = "mode=ro&immutable=1"
        if any(_size(path.with_name(path.name + end)) for end in _BESIDE):
            self._copy = tempfile.TemporaryDirectory(prefix="nightschool-")
            path, how = _copied(path, Path(self._copy.name)), "mode=rw"
        address = f"file:{quote(str(path.absolute()))}?{how}"
        self._connection = sqlite3.connect(address, uri=True, check_same_thread=False)
        self._connection.text_factory = lambda text: text.decode("utf-8", "replace")
        self._tables = list(known(self._columns()))
        if not self._tables:
            raise LogRefused(
                "a SQLite database without a table of conversations that is known: export the conversations "
                "from its program, as JSON"
            )

    def _columns(self) -> dict[str, set[str]]:
        """Return the columns of each table."""
        run = self._connection.execute
        names = [row[0] for row in run("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = "SELECT name FROM pragma_table_info(?)"
        return {name: {row[0] for row in run(columns, (name,))} for name in names}

    def _encoded(self) -> Iterator[bytes]:
        """Yield each row as a line of JSON."""
        for table, columns in self._tables:
            for row in self._connection.execute(query_of(table, columns)):
                values = {column: _plain(value) for column, value in zip(columns, row, strict=True)}
                yield (
                    json.dumps({"table": table.name, **values}, ensure_ascii=False).encode("utf-8", "replace")
                    + b"\n"
                )

    def seek(self, offset: int, whence: int = 0) -> int:
        """Begin again; only the beginning can be reached."""
        if offset or whence:
            raise io.UnsupportedOperation("rows can only be read from the beginning")
        self._lines, self._rest = self._encoded(), b""
        return 0

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes of the lines, at most `size`."""
        pieces, found = [self._rest], len(self._rest)
        try:
            while (size < 0 or found < size) and (line := next(self._lines, b"")):
                pieces.append(line)
                found += len(line)
        except sqlite3.Error as error:
            raise LogRefused(f"a SQLite database that cannot be read to its end: {error}") from None
        data = b"".join(pieces)
        if size < 0:
            self._rest = b""
            return data
        data, self._rest = data[:size], data[size:]
        return data

    def close(self) -> None:
        """Close the database, and remove its copy."""
        connection = getattr(self, "_connection", None)
        if connection is not None:
            connection.close()
        if self._copy is not None:
            self._copy.cleanup()
            self._copy = None
        super().close()


def rows_of(path: Path) -> BinaryIO:
    """Return the rows of a database as a stream; one that cannot be read raises `LogRefused`."""
    return cast(BinaryIO, Rows(path))


def _plain(value: Any) -> Any:
    """Return a value of a column as JSON can hold it."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _copied(path: Path, folder: Path) -> Path:
    """Copy a database with what lies beside it, again while it is written to, and return the copy."""
    for _ in range(5):
        before = _state(path)
        for end in ("", *_BESIDE):
            file = path.with_name(path.name + end)
            if file.exists():
                shutil.copyfile(file, folder / file.name)
        if _state(path) == before:
            break
    return folder / path.name


def _state(path: Path) -> list[tuple[int, int]]:
    """Return size and time of change of a database and of what lies beside it."""
    files = [path.with_name(path.name + end) for end in ("", *_BESIDE)]
    return [(file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.exists()]
