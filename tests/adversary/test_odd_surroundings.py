"""A wrong clock, a database without a driver, a terminal that is gone: a clear word, and on it goes."""

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from small import Command

from loop.api.host import _stop_on_signal
from store import queries
from store.ledger.db import Ledger, now
from store.ledger.records import Night, save


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(f"sqlite:///{tmp_path}/ledger.db")) as opened:
        yield opened


def test_a_night_of_the_future_is_not_one_of_today(ledger: Ledger) -> None:
    dates = (now(), (datetime.now(UTC) + timedelta(days=400)).isoformat(timespec="milliseconds"))
    nights = [
        Night(id=f"n{number}", number=number, seed=0, cursor=0, retry=False, targets=["listen"], started=date)
        for number, date in enumerate(dates, start=1)
    ]
    with ledger.writing() as connection:
        save(connection, nights)
    with ledger.reading() as connection:
        assert queries.nights_since(connection, datetime.now(UTC) - timedelta(days=1)) == 1


def test_a_database_without_its_driver_is_named_with_the_cure(tmp_path: Path, command: Command) -> None:
    home = tmp_path / "home"
    assert command("--home", home, "init").code == 0
    (home / "config.toml").write_text('database = "mysql+mysqldb://user:hunter2@127.0.0.1/x"\n')
    for words in (("status",), ("pause",), ("doctor",)):
        ran = command("--home", home, "--json", *words)
        text = ran.out + ran.err
        assert ran.code in (1, 2) and "driver" in text and "Traceback" not in text and "hunter2" not in text


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_service_whose_terminal_is_gone_stops_in_order(number: signal.Signals) -> None:
    async def serve() -> bool:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_stop_on_signal, tasks.cancel_scope)
            await anyio.wait_all_tasks_blocked()
            os.kill(os.getpid(), number)
            await anyio.sleep(60)
            return False
        return True

    assert anyio.run(serve)


def test_a_path_that_is_far_too_long_is_refused_in_a_line(tmp_path: Path, command: Command) -> None:
    long = tmp_path / ("x" * 3000)
    for words in (("status",), ("init",), ("doctor",)):
        ran = command("--home", long, *words)
        assert ran.code != 0 and "Traceback" not in ran.err and ran.err.count("\n") <= 2, ran.err[-300:]
