"""Follow folders of logs: read what is there, then what is added.

Invariant: a notification only says "look again"; the files themselves decide what is read, so a lost
notification only costs a delay of RESCAN_S. A bad file is quarantined and does not stop the others. This
module does not know what happens to the turns: after each commit it calls `on_added`.
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

from agents.ingest.files import SUFFIXES, logs_below, stored_path
from agents.ingest.read import in_threads, quarantine_file, read_log
from corpus.errors import UsageError
from store.ledger.db import Ledger
from store.queue.outcome import note

RESCAN_S = 30.0
"""Seconds after which every file is checked without a notification."""

QUIET_MS = 100
"""Milliseconds without a change after which a burst of changes is over."""

BURST_MS = 1000
"""Milliseconds after which a burst is reported even if it continues."""

Stamp = tuple[int, ...] | str
"""A value that differs whenever a file has changed: its status, or the error that hides it."""


async def follow(
    ledger: Ledger,
    folders: Iterable[PathLike[str]],
    on_added: Callable[[], None],
    *,
    rescan_s: float = RESCAN_S,
) -> None:
    """Read the logs below these folders as they grow, until cancelled; call `on_added` after new turns."""
    paths = [Path(folder) for folder in folders]
    for path in paths:
        if not await anyio.to_thread.run_sync(path.exists):
            raise UsageError(f"{path} does not exist: make the folder, or take it out of ingest.watch")
    wake, woken = anyio.create_memory_object_stream[None](1)
    stamps: dict[Path, Stamp] = {}
    ended = anyio.Event()
    async with wake, woken, anyio.create_task_group() as tasks:
        tasks.start_soon(_watch, ledger, paths, wake, ended, name="watch the folders")
        await anyio.lowlevel.checkpoint()  # the watch is set before the first scan: nothing falls between
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
    """Wake the scan at every change; where no watch can be set, the rescan remains."""
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
    """Read every file that has changed since the last scan."""
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
    """Read one file and return the number of turns added; a failure stays with this file."""
    try:
        return (await in_threads(read_log(ledger, path))).turns
    except SQLAlchemyError:  # the ledger, not the file
        raise
    except Exception as error:  # the boundary of one file: a fault of ours must not stop the others
        reason = f"it could not be read: {type(error).__name__}; please report this"
        await anyio.to_thread.run_sync(quarantine_file, ledger, stored_path(path), reason)
        return 0


def _stamped(paths: list[Path]) -> dict[Path, Stamp]:
    """Return the logs below these paths, in order, each with its stamp."""
    logs = (log for path in paths for log in ([path] if path.is_file() else logs_below(path)))
    return {log: _stamp(log) for log in logs}


def _stamp(path: Path) -> Stamp:
    try:
        stat = path.stat()
    except OSError as error:
        return type(error).__name__
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _is_log(_change: object, path: str) -> bool:
    return path.endswith(SUFFIXES)
