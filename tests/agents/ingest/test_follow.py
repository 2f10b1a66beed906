"""Following logs: existing, growing and new files; a broken file does not stop the others."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from agents.ingest import follow as module
from agents.ingest.follow import follow
from agents.ingest.read import Options, read_log
from corpus.errors import UsageError
from store.ledger.db import Ledger

PATIENCE_S = 20.0


def line(text: str) -> str:
    return json.dumps({"messages": [{"role": "user", "content": text}]}) + "\n"


class TurnsWaiter:
    """Wait until the ledger has a number of turns, woken by the follower's calls."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.changed = anyio.Event()

    def __call__(self) -> None:
        self.changed.set()

    async def turns(self, count: int) -> None:
        while self.count("turns") < count:
            await self.changed.wait()
            self.changed = anyio.Event()

    def count(self, table: str) -> int:
        with self.ledger.reading() as connection:
            return int(connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() or 0)


def following(
    tmp_path: Path,
    story: Callable[[TurnsWaiter], Awaitable[None]],
    folders: list[Path],
    rescan_s: float = 600,
) -> None:
    """Run a story beside a follower."""

    async def run() -> None:
        ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
        waiter = TurnsWaiter(ledger)
        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:

                async def run_follower() -> None:
                    await follow(ledger, folders, waiter, rescan_s=rescan_s)

                tasks.start_soon(run_follower)
                await story(waiter)
                tasks.cancel_scope.cancel()
        ledger.close()

    anyio.run(run)


def test_existing_logs_are_read_first_and_additions_afterwards(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "a.jsonl").write_text(line("one"))

    async def story(waiter: TurnsWaiter) -> None:
        await waiter.turns(1)
        with (logs / "a.jsonl").open("a") as log:
            log.write(line("two"))
        await waiter.turns(2)
        (logs / "b.jsonl").write_text(line("three"))
        await waiter.turns(3)
        (logs / "later").mkdir()
        (logs / "later" / "c.jsonl").write_text(line("four"))
        (logs / "b.jsonl").unlink()
        with (logs / "a.jsonl").open("a") as log:
            log.write(line("five"))
        await waiter.turns(5)

    following(tmp_path, story, [logs], rescan_s=5)  # a new folder's first file may come before its watch


def test_the_next_scan_makes_up_for_a_missed_notification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def deaf(*_paths: Any, **_options: Any) -> AsyncIterator[None]:
        await anyio.sleep_forever()
        yield

    monkeypatch.setattr(module, "awatch", deaf)
    logs = tmp_path / "logs"
    logs.mkdir()

    async def story(waiter: TurnsWaiter) -> None:
        (logs / "a.jsonl").write_text(line("one"))
        await waiter.turns(1)

    following(tmp_path, story, [logs], rescan_s=0.05)


def test_logs_are_still_read_when_no_watch_can_be_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_paths: Any, **_options: Any) -> AsyncIterator[None]:
        raise OSError("inotify watch limit reached")
        yield

    monkeypatch.setattr(module, "awatch", full)
    logs = tmp_path / "logs"
    logs.mkdir()

    async def story(waiter: TurnsWaiter) -> None:
        lines = 0
        while not waiter.count("events WHERE kind='watch_failed'"):  # written beside the first looks
            with (logs / "a.jsonl").open("a") as log:
                log.write(line(str(lines)))
            lines += 1
            await waiter.turns(lines)
        (logs / "b.jsonl").write_text(line("one"))
        await waiter.turns(lines + 1)
        assert waiter.count("events WHERE kind='watch_failed'") == 1

    following(tmp_path, story, [logs], rescan_s=0.05)


def test_a_bad_file_is_quarantined_and_the_next_one_is_read(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "a.jsonl").write_bytes(b"\0\1\2\n" * 10)
    (logs / "b.jsonl").symlink_to(logs / "b.jsonl")
    (logs / "c.jsonl").write_text(line("one"))

    async def story(waiter: TurnsWaiter) -> None:
        await waiter.turns(1)
        assert waiter.count("set_aside_lines") == 2
        assert waiter.count("events WHERE kind='log_set_aside'") == 2
        (logs / "a.jsonl").write_text(line("mended"))
        await waiter.turns(2)

    following(tmp_path, story, [logs])


def test_an_internal_error_at_one_file_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(ledger: Ledger, path: Path, options: Options) -> Any:
        if path.name == "a.jsonl":
            raise ZeroDivisionError
        return original(ledger, path, options)

    original = read_log
    monkeypatch.setattr(module, "read_log", broken)
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "a.jsonl").write_text(line("one"))
    (logs / "b.jsonl").write_text(line("two"))

    async def story(waiter: TurnsWaiter) -> None:
        await waiter.turns(1)
        assert waiter.count("set_aside_lines") == 1

    following(tmp_path, story, [logs])


def test_a_stopped_follower_resumes_where_it_was(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    for count in range(1, 4):
        with (logs / "a.jsonl").open("a") as log:
            log.write(line(str(count)))

        async def story(waiter: TurnsWaiter, count: int = count) -> None:
            await waiter.turns(count)
            assert waiter.count("turns") == count

        following(tmp_path, story, [logs])


def test_a_missing_folder_is_a_usage_error(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    with pytest.raises(UsageError, match=r"ingest\.watch"):
        anyio.run(follow, ledger, [tmp_path / "nowhere"], lambda: None)
    ledger.close()
