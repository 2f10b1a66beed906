"""The recorded file operations of a night, and every state of the disk that a loss of power may leave.

Recorded are the calls of `os` on the files of checkpoints, and the ledger's commits, each with what it makes
the ledger say. A commit is one durable step: SQLite with synchronous=FULL is trusted with that, and with
nothing else. Of the file system only what POSIX promises is believed: written data are there after fsync of
the file, a name after fsync of its folder; before that each may be there or not, whatever the other does, and
data may be cut or zeros.
"""

import base64
import json
import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corpus.aliases import Json
from store.checkpoints.store import CheckpointStore

PART = "checkpoints"
"""The folder of a home whose files are recorded."""


# ---------------------------------------------------------------- recording


def _is_recorded(path: str) -> bool:
    return f"/{PART}/" in f"{path}/"


class _Log:
    """A file to which several processes may append; each line is one operation."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._write = os.write
        self.open_files: dict[int, str] = {}

    def add(self, operation: str, **more: Any) -> None:
        self._write(self._descriptor, (json.dumps({"op": operation, **more}) + "\n").encode())


def record(to: Path) -> Callable[[], None]:
    """Record from now on in this process; return the function that ends it."""
    log, real = (
        _Log(to),
        {name: getattr(os, name) for name in ("open", "write", "fsync", "replace", "unlink", "mkdir")},
    )

    def open_(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        place = os.fspath(path) if isinstance(path, str | Path) else ""
        is_new = bool(flags & os.O_CREAT) and _is_recorded(place) and not os.path.exists(place)
        descriptor: int = real["open"](path, flags, *rest, **options)
        log.open_files[descriptor] = place  # closing is no matter: numbers are given anew by `open`
        if is_new:
            log.add("create", path=place)
        return descriptor

    def write(descriptor: int, data: Any) -> int:
        length: int = real["write"](descriptor, data)
        if _is_recorded(place := log.open_files.get(descriptor, "")):
            log.add("write", path=place, data=base64.b64encode(bytes(data)[:length]).decode())
        return length

    def fsync(descriptor: int) -> None:
        real["fsync"](descriptor)
        if place := log.open_files.get(descriptor, ""):
            log.add("fsync", path=place)

    def replace(old: Any, new: Any, **options: Any) -> None:
        real["replace"](old, new, **options)
        if _is_recorded(os.fspath(new)):
            log.add("rename", path=os.fspath(old), to=os.fspath(new))

    def unlink(path: Any, **options: Any) -> None:
        real["unlink"](path, **options)
        if _is_recorded(os.fspath(path)):
            log.add("unlink", path=os.fspath(path))

    def mkdir(path: Any, *rest: Any, **options: Any) -> None:
        real["mkdir"](path, *rest, **options)
        log.add("mkdir", path=os.fspath(path))

    for wrapped in (open_, write, fsync, replace, unlink, mkdir):
        setattr(os, wrapped.__name__.rstrip("_"), wrapped)
    stop = _record_commits(log)

    def end() -> None:
        stop()
        for name, function in real.items():
            setattr(os, name, function)

    return end


def _record_commits(log: _Log) -> Callable[[], None]:
    """Record the ledger's checkpoints after each commit of this process."""
    from sqlalchemy import Connection, Engine, event

    from store import queries

    def on_commit(connection: Connection) -> None:
        if connection.info.get("readonly"):
            return
        rows = (
            queries.checkpoints(connection) if connection.dialect.has_table(connection, "checkpoints") else []
        )
        active = queries.active(connection).id if rows else ""
        connection.dialect.do_commit(connection.connection)
        log.add("commit", active=active, named=[row.id for row in rows if row.pruned is None])

    event.listen(Engine, "commit", on_commit)
    return lambda: event.remove(Engine, "commit", on_commit)


@contextmanager
def recording(to: Path | None) -> Iterator[None]:
    """Record within the context, or not at all without a file."""
    end = record(to) if to else lambda: None
    try:
        yield
    finally:
        end()


def read(log: Path) -> list[Json]:
    """Return the operations in order, with written data as bytes."""
    operations = [json.loads(line) for line in log.read_text().splitlines()]
    for operation in operations:
        if "data" in operation:
            operation["data"] = base64.b64decode(operation["data"])
    return operations


# ---------------------------------------------------------------- what may be left


@dataclass
class _File:
    """One file, whatever its names."""

    number: int
    data: bytearray = field(default_factory=bytearray)
    synced: int = 0
    """Bytes of it that are durable."""


@dataclass(frozen=True)
class Remains:
    """The remains of one file."""

    number: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class PowerLoss:
    """The unsynced changes that a loss of power takes."""

    names: Callable[[random.Random], bool]
    """Whether one change of a name stays."""
    data: Callable[[random.Random, int], int]
    """How many of so many unsynced bytes stay."""
    zeros: bool = False
    """Whether the rest is there as zeros."""


def _half(draw: random.Random) -> bool:
    return draw.random() < 0.5


LOSSES = {
    "everything unsynced": PowerLoss(names=lambda _: False, data=lambda _, count: 0),
    "nothing": PowerLoss(names=lambda _: True, data=lambda _, count: count),
    "unsynced names": PowerLoss(names=lambda _: False, data=lambda _, count: count),
    "unsynced data": PowerLoss(names=lambda _: True, data=lambda _, count: 0),
    "unsynced data, now zeros": PowerLoss(names=lambda _: True, data=lambda _, count: 0, zeros=True),
    "the end of unsynced data": PowerLoss(
        names=lambda _: True, data=lambda draw, count: draw.randint(0, count)
    ),
    "some names, some data": PowerLoss(names=_half, data=lambda draw, count: draw.randint(0, count)),
    "other names, and data now zeros": PowerLoss(
        names=_half, data=lambda draw, count: draw.randint(0, count), zeros=True
    ),
}

DRAWN = list(LOSSES.items())[-2:]
AGAIN = 3
"""Times that those that are drawn are drawn once more, at each operation."""


class Disk:
    """The files below one folder: their durable part, and the changes since."""

    def __init__(self, root: str, there: Iterable[Path] = ()) -> None:
        """Start with `there`: files and folders that are durable already."""
        self.root = root
        self._names: dict[str, _File | None] = {}
        """Durable names; None for a folder."""
        self._live: dict[str, _File | None] = {}
        self._pending: list[tuple[str, str, _File | None]] = []
        """Changes of names that are not durable: (what, path, file)."""
        self._count = 0
        for path in there:
            self._count += 1
            data = None if path.is_dir() else bytearray(path.read_bytes())
            self._names[str(path)] = None if data is None else _File(self._count, data, len(data))
        self._live.update(self._names)

    def take(self, operation: Json) -> None:
        """Apply this operation."""
        kind, path = operation["op"], operation.get("path", "")
        if kind == "create":
            self._count += 1
            self._change("add", path, _File(self._count))
        elif kind == "mkdir":
            self._change("add", path, None)
        elif kind == "write":
            self._file(path).data += operation["data"]
        elif kind == "fsync" and self._live.get(path) is not None:
            self._file(path).synced = len(self._file(path).data)
        elif kind == "fsync":
            self._sync_names(path)
        elif kind == "rename":
            self._pending.append(("move", f"{path}\0{operation['to']}", self._file(path)))
            self._apply(self._live, self._pending[-1])
        elif kind == "unlink":
            self._change("drop", path, None)

    def live(self) -> dict[str, bytes]:
        """Return the files as a running process sees them."""
        files = {path: file for path, file in self._live.items() if file is not None}
        return {path[len(self.root) + 1 :]: bytes(file.data) for path, file in files.items()}

    def _file(self, path: str) -> _File:
        file = self._live[path]
        assert file is not None, f"{path} is a folder"
        return file

    def _change(self, what: str, path: str, file: _File | None) -> None:
        self._pending.append((what, path, file))
        self._apply(self._live, self._pending[-1])

    @staticmethod
    def _apply(names: dict[str, _File | None], change: tuple[str, str, _File | None]) -> None:
        what, path, file = change
        if what == "add":
            names[path] = file
        elif what == "drop":
            names.pop(path, None)
        else:
            old, _, new = path.partition("\0")
            names.pop(old, None)
            names[new] = file

    def _sync_names(self, folder: str) -> None:
        """Make the changes in this folder durable; each of ours is within one folder."""
        rest = []
        for change in self._pending:
            if os.path.dirname(change[1].partition("\0")[0]) == folder:
                self._apply(self._names, change)
            else:
                rest.append(change)
        self._pending = rest

    def left(self, loss: PowerLoss, draw: random.Random) -> dict[str, Remains]:
        """Return the files that a loss of power at this moment leaves, by path from the root."""
        names = dict(self._names)
        for change in self._pending:
            if loss.names(draw):
                self._apply(names, change)
        files = {}
        for path, file in sorted(names.items(), key=lambda item: item[0]):
            if file is not None and all(above in names for above in self._above(path)):
                files[path[len(self.root) + 1 :]] = Remains(file.number, self._kept(file, loss, draw))
        return files

    def _above(self, path: str) -> Iterator[str]:
        """Yield the folders that lead to a path, below the root."""
        while (path := os.path.dirname(path)) != self.root:
            yield path

    def _kept(self, file: _File, loss: PowerLoss, draw: random.Random) -> bytes:
        unsynced = len(file.data) - file.synced
        stays = loss.data(draw, unsynced)
        rest = bytes(unsynced - stays) if loss.zeros else b""
        return bytes(file.data[: file.synced + stays]) + rest


# ---------------------------------------------------------------- looking at it


@dataclass
class Replay:
    """A check of every state in which a loss of power may leave a home."""

    folder: Path
    """Where states are laid out, one after the other."""
    states: int = 0
    distinct: int = 0
    """Those whose files or whose ledger differ from all before: laid out on the disk and hashed."""
    wrong: list[str] = field(default_factory=list)
    _seen: dict[Any, str] = field(default_factory=dict)
    _there: dict[str, Remains] = field(default_factory=dict)

    def look(
        self, operations: Sequence[Json], home: Path, *, to_the_end: bool = True, disk: Disk | None = None
    ) -> "Replay":
        """Go through all prefixes, and through all that may be lost at each; or up to the first that is
        wrong.

        disk: what was there before.
        """
        disk, draw = disk or Disk(str(home.parent)), random.Random(1)
        ledger: Json = {"active": "", "named": []}
        for number in range(len(operations) + 1):
            if number:
                disk.take(operations[number - 1])
                if operations[number - 1]["op"] == "commit":
                    ledger = operations[number - 1]
            for name, loss in [*LOSSES.items(), *DRAWN * AGAIN]:
                self.states += 1
                if problem := self._problem(disk.left(loss, draw), ledger):
                    self.wrong.append(f"after {number} operations, {name} lost: {problem}")
                    if not to_the_end:
                        return self
        return self

    def _problem(self, left: dict[str, Remains], ledger: Json) -> str:
        """Return the fault of one state, or "" if the ledger names only whole checkpoints."""
        key = (frozenset(left.items()), ledger["active"], tuple(ledger["named"]))
        if key not in self._seen:
            self.distinct += 1
            self._lay_out(left)
            self._seen[key] = self._faults(ledger)
        return self._seen[key]

    def _faults(self, ledger: Json) -> str:
        """Return the first fault of the checkpoints that the ledger names, before and after a sweep."""
        (store,) = [CheckpointStore(place) for place in self.folder.glob(f"*/{PART}")] or [None]
        if store is None:
            return "the folder of the checkpoints is gone" if ledger["named"] else ""
        for when in ("", "swept: "):
            if faults := store.verify([ledger["active"], *ledger["named"]] if ledger["active"] else []):
                return f"{when}{faults[0].path.name}: {faults[0].problem}"
            for path in store.sweep(ledger["named"]):
                self._there.pop(str(path.relative_to(self.folder)), None)
        return "temporary files are left" if list(store.directory.rglob("*.tmp")) else ""

    def _lay_out(self, left: dict[str, Remains]) -> None:
        """Make the folder hold exactly these files, changing only what differs."""
        for path in self._there.keys() - left.keys():
            (self.folder / path).unlink()
        for path, file in left.items():
            if self._there.get(path) != file:
                place = self.folder / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(file.data)
        self._there = dict(left)
        for place in sorted(self.folder.rglob("*"), reverse=True):
            if place.is_dir() and not any(place.iterdir()):
                shutil.rmtree(place)
