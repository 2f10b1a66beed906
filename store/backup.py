"""Backups of a home: consistent while a service runs, each file's content stored once, whole or not there.

    DIR/content/<sha256>      a file's content; two backups with the same content share it
    DIR/backups/<name>.json   a backup: path, digest and size of each of its files; written last

First the ledger is copied by SQLite's own means, then the files that this copy names. So a night or a
prune meanwhile changes nothing: a file that a prune took is read from the trash. A backup exists once its
list does, and the list is written when all content is durable and was read back. Invariant: nothing in DIR
is ever changed, so a killed backup costs only what it has copied already. A restore makes a whole home or
none.
"""

import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from corpus.errors import GateRefused, IntegrityFault, UnknownId, UsageError
from store.checkpoints.blobs import DIGEST, TOMBSTONE
from store.checkpoints.store import CheckpointStore
from store.files import durable
from store.home import Home

LEDGER = "ledger.db"
CONTENT, LISTS = "content", "backups"
_PLAIN = ("config.toml", "token", "chat-token", "checkpoints/owner")
"""Files of a home that are copied as they are."""
_FOLDERS = ("behaviours", "inbox", "readout")
"""Folders of a home that are copied whole."""
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class SavedFile:
    """One file of a backup."""

    path: str
    """Its path in the home."""
    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Backup:
    """One backup, as its list has it."""

    name: str
    files: list[SavedFile]


@dataclass(frozen=True, kw_only=True)
class Saved:
    """The result of a backup."""

    name: str
    """Name of the backup, by which `restore` finds it."""
    files: int
    nbytes: int
    """Bytes of all its files."""
    copied_bytes: int
    """Bytes that were new in this backup."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The result of a check of backups."""

    backups: list[str]
    """Names of all backups, oldest first."""
    problems: list[str]
    """What is damaged or missing, each with the backups that need it."""


def back_up(home: Home, place: Path, *, database: str = "") -> Saved:
    """Back up a home into a folder, and return what was saved.

    Args:
        home: The home; a service may run.
        place: The folder; it is made if it does not exist, and keeps all earlier backups.
        database: The configured URL of the ledger; "" for the home's own file.

    Raises:
        GateRefused: The ledger is in another database, which has tools of its own.
        IntegrityFault: A file that the ledger names is missing, or what was written reads back otherwise.
    """
    if database:
        raise GateRefused(
            "the ledger is in another database: back it up with that database's own tools first, then copy "
            "checkpoints/, inbox/, behaviours/ and config.toml"
        )
    for folder in (place, place / CONTENT, place / LISTS):
        durable.make_folder(folder, 0o700)
    with _alone(place):
        return _back_up(home, place)


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Be the only writer of a folder of backups, and remove what a killed one has left."""
    with open(place / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        left = [path for folder in (place / CONTENT, place / LISTS) for path in durable.leftovers(folder)]
        durable.remove([*left, *place.glob("*.ledger.tmp*")], "orphans")
        yield


def _back_up(home: Home, place: Path) -> Saved:
    """Do what `back_up` does, as the only writer of the folder."""
    before = {file.path: file for backup in _backups(place) for file in backup.files}
    copied = 0
    files = []
    for path, source in _sources(home, place):
        saved, nbytes = _save(place, path, source, before.get(path))
        files.append(saved)
        copied += nbytes
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}Z"
    with durable.new_file(place / LISTS, "backup") as stream:
        stream.write(json.dumps({"files": [asdict(file) for file in files]}, indent=1).encode())
        stream.keep(f"{name}.json", replace=False)
    return Saved(name=name, files=len(files), nbytes=sum(file.size for file in files), copied_bytes=copied)


def check(place: Path) -> Checked:
    """Hash every content again, and return what is damaged or missing."""
    backups, problems = _backups(place), dict[str, set[str]]()
    seen: dict[str, str | None] = {}
    for backup in backups:
        for file in backup.files:
            if file.sha256 not in seen:
                seen[file.sha256] = _problem(place, file)
            if problem := seen[file.sha256]:
                problems.setdefault(f"{file.path}: {problem}", set()).add(backup.name)
    return Checked(
        backups=[backup.name for backup in backups],
        problems=[f"{text} (needed by {', '.join(sorted(names))})" for text, names in problems.items()],
    )


def restore(place: Path, home: Home, name: str = "") -> Saved:
    """Make a home from a backup, and return what was restored.

    Args:
        place: The folder of the backups.
        home: The home, at whose path there must be nothing yet, or an empty folder.
        name: Name of the backup, or the beginning of it; "" for the newest.

    Raises:
        UsageError: There is something at the home's path.
        UnknownId: There is no such backup.
        IntegrityFault: A content is damaged; nothing was made.
    """
    if home.path.exists() and (not home.path.is_dir() or any(home.path.iterdir())):
        raise UsageError(f"{home.path} is not empty: restore into a new path (--home DIR), then compare")
    backup = _chosen(place, name)
    durable.make_folder(home.path.parent)
    unfinished = home.path.with_name(f"{home.path.name}.restoring-{os.getpid()}")
    try:
        for file in backup.files:
            _restore_file(place, file, unfinished)
        for folder in ("checkpoints", "checkpoints/blobs", "behaviours", "inbox", "logs"):
            durable.make_folder(unfinished / folder, 0o700)
        unfinished.chmod(0o700)
        if home.path.exists():
            home.path.rmdir()
        os.rename(unfinished, home.path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    durable.sync_directory(home.path.parent)
    size = sum(file.size for file in backup.files)
    return Saved(name=backup.name, files=len(backup.files), nbytes=size, copied_bytes=size)


def _sources(home: Home, place: Path) -> Iterator[tuple[str, Path]]:
    """Yield the path of each file to save, and where it is now; first the copy of the ledger."""
    copy = place / f"{os.getpid()}.ledger.tmp"
    try:
        stored = _copy_ledger(home.path / LEDGER, copy)
        yield LEDGER, copy
    finally:
        copy.unlink(missing_ok=True)
    store = CheckpointStore(home.checkpoints)
    needed = set[Path]().union(*(_files_of(store, checkpoint_id) for checkpoint_id in stored))
    plain = [home.path / name for name in _PLAIN]
    folders = (path for name in _FOLDERS for path in sorted((home.path / name).rglob("*")))
    for path in [*sorted(needed), *plain, *folders]:
        where = path if path.exists() or path not in needed else store.trash.folder / path.name
        if where.is_file() and path.suffix != ".tmp":
            yield path.relative_to(home.path).as_posix(), where


def _files_of(store: CheckpointStore, checkpoint_id: str) -> set[Path]:
    """Return the places of a checkpoint's files; a prune may just have moved them to the trash.

    Raises:
        IntegrityFault: The manifest or the weights are neither in their place nor in the trash.
    """
    trash = CheckpointStore(store.trash.folder)
    trash.blobs.folder = store.trash.folder
    is_here = (store.directory / f"{checkpoint_id}.json").exists()
    manifest = (store if is_here else trash).manifest(checkpoint_id)
    files = {store.directory / f"{checkpoint_id}.json"}
    for digest in manifest.blobs:
        found = store.blobs.needed([digest])
        if not any(path.exists() for path in found):
            found = {store.blobs.folder / path.name for path in trash.blobs.needed([digest])}
        if digest == manifest.weights and all(path.suffix == TOMBSTONE for path in found):
            raise IntegrityFault(
                f"the weights of checkpoint {checkpoint_id[:12]} are missing, and nothing was saved: see "
                "`nightschool checkpoints verify`"
            )
        files |= found
    return files


def _copy_ledger(source: Path, copy: Path) -> list[str]:
    """Copy a SQLite file that may be in use; return the ids of the checkpoints that the copy has files of."""
    if not source.is_file():
        raise IntegrityFault(f"{source} is missing: there is nothing to back up (see `nightschool recover`)")
    with closing(sqlite3.connect(source)) as live, closing(sqlite3.connect(copy)) as target:
        live.backup(target)
        target.execute("PRAGMA journal_mode=DELETE")  # one file, whole by itself
        (found,) = target.execute("PRAGMA integrity_check").fetchone()
        if found != "ok":
            raise IntegrityFault(
                f"the ledger is damaged ({found}): nothing was saved; restore an older backup"
            )
        return [name for (name,) in target.execute("SELECT id FROM checkpoints WHERE pruned IS NULL")]


def _save(place: Path, path: str, source: Path, before: SavedFile | None) -> tuple[SavedFile, int]:
    """Save one file's content unless it is there; return its entry, and how many bytes were copied."""
    if before and _is_named_by_content(path) and before.size == source.stat().st_size:
        if (place / CONTENT / before.sha256).is_file():
            return before, 0
    with source.open("rb") as stream, durable.new_file(place / CONTENT, "backup") as file:
        while chunk := stream.read(_CHUNK):
            file.write(chunk)
        saved = SavedFile(path=path, sha256=file.sha256, size=file.nbytes)
        target = place / CONTENT / saved.sha256
        if target.is_file() and _problem(place, saved) is None:
            return saved, 0
        file.keep(saved.sha256)
    if problem := _problem(place, saved):
        raise IntegrityFault(f"{path}: what was just written {problem}: check the disk of {place}")
    return saved, saved.size


def _is_named_by_content(path: str) -> bool:
    """Return whether a file of this path never changes: manifests and blobs are named by their digests."""
    return path.startswith("checkpoints/") and DIGEST.match(Path(path).name) is not None


def _problem(place: Path, file: SavedFile) -> str | None:
    """Return what is wrong with a saved content; None if it is what its name says."""
    path = place / CONTENT / file.sha256
    if not DIGEST.fullmatch(file.sha256):
        return "has no digest"
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except FileNotFoundError:
        return "is missing"
    return None if digest.hexdigest() == file.sha256 else "does not match its digest"


def _restore_file(place: Path, file: SavedFile, folder: Path) -> None:
    """Write one file of a backup below a new folder."""
    if problem := _problem(place, file):
        raise IntegrityFault(f"{file.path} {problem} in {place}; nothing was restored: use another backup")
    target = folder / file.path
    if not target.resolve().is_relative_to(folder.resolve()):
        raise IntegrityFault(
            f"the backup names {file.path!r}, which is outside of a home; nothing was restored"
        )
    durable.make_folder(target.parent, 0o700)
    with (
        (place / CONTENT / file.sha256).open("rb") as stream,
        durable.new_file(target.parent, "backup") as new,
    ):
        while chunk := stream.read(_CHUNK):
            new.write(chunk)
        new.keep(target.name)


def _backups(place: Path) -> list[Backup]:
    """Return all backups in a folder, oldest first."""
    lists = sorted((place / LISTS).glob("*Z.json"))
    return [
        Backup(name=path.stem, files=[SavedFile(**file) for file in json.loads(path.read_text())["files"]])
        for path in lists
    ]


def _chosen(place: Path, name: str) -> Backup:
    """Return the only backup whose name begins like this; the newest for ""."""
    these = [backup for backup in _backups(place) if backup.name.startswith(name)]
    if not these or (name and len(these) != 1):
        raise UnknownId(
            f"{len(these)} backups in {place} begin with {name!r}: `nightschool backup check` lists all"
        )
    return these[-1]
