"""Follows folders of logs: what is there first, then what is added as it comes.

Invariant: a notification only says "look again"; what is read is decided by the files themselves, so a lost
notification costs RESCAN_S and nothing else. One bad file is set aside and stops nobody. Does not know what
happens to what it heard: it wakes whoever does, after the commit.
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
from agents.ingest.read import in_threads, read_log, refuse
from corpus.errors import UsageError
from store.ledger.db import Ledger
from store.queue.outcome import note

RESCAN_S = 30.0
"""Seconds after which every file is looked at without a notification."""

QUIET_MS = 100
"""Milliseconds without a change after which a burst of changes counts as over."""

BURST_MS = 1000
"""Milliseconds after which a burst is reported even if it goes on."""

Stamp = tuple[int, ...] | str


async def follow(
    ledger: Ledger,
    folders: Iterable[PathLike[str]],
    on_added: Callable[[], None],
    *,
    rescan_s: float = RESCAN_S,
) -> None:
    """Read the logs below these folders as they grow, until cancelled; `on_added` after turns are committed."""
    places = [Path(folder) for folder in folders]
    for place in places:
        if not await anyio.to_thread.run_sync(place.exists):
            raise UsageError(f"{place} is not there: make the folder, or take it out of ingest.watch")
    wake, woken = anyio.create_memory_object_stream[None](1)
    stamps: dict[Path, Stamp] = {}
    ended = anyio.Event()
    async with wake, woken, anyio.create_task_group() as tasks:
        tasks.start_soon(_notify, ledger, places, wake, ended, name="watch the folders")
        await anyio.lowlevel.checkpoint()  # the watch is set before the first look: nothing falls between
        try:
            while True:
                await _look(ledger, places, stamps, on_added)
                with anyio.move_on_after(rescan_s):
                    await woken.receive()
        finally:
            ended.set()  # the watch waits in a thread, which a cancellation alone does not reach


async def _notify(
    ledger: Ledger, places: list[Path], wake: MemoryObjectSendStream[None], ended: anyio.Event
) -> None:
    """Say that something changed, as often as it does; without notifications the rescan remains."""
    try:
        async for _ in awatch(
            *places, watch_filter=_is_log, debounce=BURST_MS, step=QUIET_MS, stop_event=ended
        ):
            try:
                wake.send_nowait(None)
            except anyio.WouldBlock:
                continue  # it is going to look anyway
    except (OSError, RuntimeError) as error:  # no watch to be had
        await ledger.write(note, "watch_failed", "", {"reason": type(error).__name__})


async def _look(
    ledger: Ledger, places: list[Path], stamps: dict[Path, Stamp], on_added: Callable[[], None]
) -> None:
    """Read every file that is not as it was at the last look."""
    now = await anyio.to_thread.run_sync(_stamped, places)
    for path in [path for path in stamps if path not in now]:
        del stamps[path]
    for path, stamp in now.items():
        if stamps.get(path) == stamp:
            continue
        if await _read(ledger, path):
            on_added()
        stamps[path] = stamp


async def _read(ledger: Ledger, path: Path) -> int:
    """Read one file; returns the turns added. What goes wrong in it stays in it."""
    try:
        return (await in_threads(read_log(ledger, path))).turns
    except SQLAlchemyError:  # the ledger, not the file
        raise
    except Exception as error:  # the boundary of one file: a fault of ours must not stop the others
        refused = f"it could not be read: {type(error).__name__}; please report this"
        await anyio.to_thread.run_sync(refuse, ledger, stored_path(path), refused)
        return 0


def _stamped(places: list[Path]) -> dict[Path, Stamp]:
    """The logs that are there, in order, each with what changes when it does."""
    found = (path for place in places for path in ([place] if place.is_file() else logs_below(place)))
    return {path: _stamp(path) for path in found}


def _stamp(path: Path) -> Stamp:
    try:
        stat = path.stat()
    except OSError as error:
        return type(error).__name__
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _is_log(_change: object, path: str) -> bool:
    return path.endswith(SUFFIXES)
