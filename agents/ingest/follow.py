"""Follow folders of logs: read the logs that are there, then whatever is added to them.

Invariant: a notification of a change only starts a scan, and the scan decides from the files what to read. So
a lost notification delays the reading by RESCAN_S at most. A bad file is quarantined and does not stop the
others. This module does not know how the turns are used: it calls `on_added` after each file that gave new
turns.
"""

from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio.streams.memory import MemoryObjectSendStream
from sqlalchemy.exc import SQLAlchemyError
from watchfiles import awatch

from agents.ingest.files import is_log, logs_below
from agents.ingest.read import Options, in_threads, quarantine_file, read_log
from agents.ingest.sources import stored_path
from corpus.errors import UsageError
from store.ledger.db import Ledger
from store.queue.outcome import note

RESCAN_S = 30.0
"""Seconds without a notification after which all files are checked anyway."""

QUIET_MS = 100
"""Milliseconds without a change after which a burst of changes is over."""

BURST_MS = 1000
"""Milliseconds after which a burst is reported even if it continues."""

Stamp = tuple[int, ...] | str
"""A value that changes whenever a file changes: fields of the file's status, or the name of the error if the
status cannot be read."""


async def follow(
    ledger: Ledger,
    folders: Iterable[PathLike[str]],
    on_added: Callable[[], None],
    *,
    rescan_s: float = RESCAN_S,
) -> None:
    """Read the logs below these folders as they grow, until cancelled.

    Args:
        ledger: The ledger that the turns are added to.
        folders: The folders to follow. One that does not exist raises `UsageError`.
        on_added: Called after each file that gave new turns.
        rescan_s: Seconds without a notification after which all files are checked anyway.
    """
    paths = [Path(folder) for folder in folders]
    for path in paths:
        if not await anyio.to_thread.run_sync(path.exists):
            raise UsageError(f"{path} does not exist: make the folder, or take it out of ingest.watch")
    wake, woken = anyio.create_memory_object_stream[None](1)
    stamps: dict[Path, Stamp] = {}
    ended = anyio.Event()
    async with wake, woken, anyio.create_task_group() as tasks:
        tasks.start_soon(_watch, ledger, paths, wake, ended, name="watch the folders")
        await anyio.lowlevel.checkpoint()  # let the watch start before the first scan, so no change is missed
        try:
            while True:
                await _scan(ledger, paths, stamps, on_added)
                with anyio.move_on_after(rescan_s):
                    await woken.receive()
        finally:
            ended.set()  # the watch waits in a thread, which a cancellation alone does not reach


async def _watch(
    ledger: Ledger, paths: list[Path], wake: MemoryObjectSendStream[None], ended: anyio.Event
) -> None:
    """Wake the scan at every change of a log.

    If the system allows no watch, record that in the ledger; the regular rescan still finds the changes.
    """
    try:
        async for _ in awatch(
            *paths, watch_filter=_is_log, debounce=BURST_MS, step=QUIET_MS, stop_event=ended
        ):
            try:
                wake.send_nowait(None)
            except anyio.WouldBlock:
                continue  # a scan is due already
    except (OSError, RuntimeError) as error:  # no watch is available
        await ledger.write(note, "watch_failed", "", {"reason": type(error).__name__})


async def _scan(
    ledger: Ledger, paths: list[Path], stamps: dict[Path, Stamp], on_added: Callable[[], None]
) -> None:
    """Read every log that has changed since the last scan, and update `stamps`, the state at that scan."""
    now = await anyio.to_thread.run_sync(_stamped, paths)
    for path in [path for path in stamps if path not in now]:
        del stamps[path]
    for path, stamp in now.items():
        if stamps.get(path) == stamp:
            continue
        if await _read(ledger, path):
            on_added()
        stamps[path] = stamp


async def _read(ledger: Ledger, path: Path) -> int:
    """Read one file and return the number of turns added; a file that cannot be read is quarantined."""
    try:
        return (await in_threads(read_log(ledger, path, Options(last=False)))).turns
    except SQLAlchemyError:  # the ledger, not the file
        raise
    except Exception as error:  # a bug that shows with one file must not stop the other files
        reason = f"it could not be read: {type(error).__name__}; please report this"
        await anyio.to_thread.run_sync(quarantine_file, ledger, stored_path(path), reason)
        return 0


def _stamped(paths: list[Path]) -> dict[Path, Stamp]:
    """Return the stamp of each log at or below these paths, in the order of the paths."""
    logs = (log for path in paths for log in ([path] if path.is_file() else logs_below(path)))
    return {log: _stamp(log) for log in logs}


def _stamp(path: Path) -> Stamp:
    try:
        stat = path.stat()
    except OSError as error:
        return type(error).__name__
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _is_log(_change: object, path: str) -> bool:
    return is_log(path)
