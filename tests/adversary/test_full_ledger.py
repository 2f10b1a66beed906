"""A ledger that cannot be written: nights and reading wait, answers go on, and all resumes by itself."""

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest
import small
from sqlalchemy.exc import IntegrityError, OperationalError

from corpus.errors import NightschoolError
from loop.engine.health import Health, ledger_fault
from store.ledger.db import Ledger

FULL = 1
"""Bytes that a file of the service may have: fewer than any page of the ledger."""
RECOVERED_S = 300


@pytest.fixture
def limit_files() -> Iterator[Callable[[int, int], None]]:
    """Limit the size of the files that a process may write, and lift the limit of this process at the end."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(process: int, size: int) -> None:
        resource.prlimit(process, resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_service_whose_ledger_is_full_answers_says_so_and_resumes(
    tmp_path: Path, limit_files: Callable[[int, int], None]
) -> None:
    home = small.small_home(tmp_path / "home")
    service = small.start_service(home, tmp_path / "service.log")
    try:
        service.ready()
        assert small.cli_json(home, "status")["problems"] == []
        limit_files(service.process.pid, FULL)
        (home / "inbox" / "new.jsonl").write_text("\n".join(small.correction_lines("question", 2)) + "\n")

        def told() -> list[str]:
            problems: list[str] = small.cli_json(home, "status")["problems"]
            return problems

        (problem,) = small.wait_until(told, "status says so", RECOVERED_S)
        assert "cannot be written" in problem and "answers go on" in problem
        assert small.cli_json(home, "ask", "hello")["answer"]
        assert small.cli_json(home, "status")["next_update_reason"] == problem
        limit_files(service.process.pid, resource.RLIM_INFINITY)
        small.wait_until(
            lambda: small.cli_json(home, "status")["conversations"] == 2, "the log is read", RECOVERED_S
        )
        assert told() == [] and service.process.poll() is None
    finally:
        service.process.terminate()
        service.process.wait(60)


START = """
import resource, sys
from pathlib import Path
import anyio
from loop.cli.show.console import set_up_logs
from loop.config import load_settings
from loop.engine.service import opened
from store.home import Home

async def start(home):
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, unlimited[1]))
    async with opened(home, load_settings(home.config_file)) as service:
        print(service.health.fault)
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        await service.health.recovered()
        print(repr(service.health.fault))

set_up_logs()
anyio.run(start, Home(Path(sys.argv[1])))
"""


def test_a_service_starts_while_its_ledger_cannot_be_written(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert small.run_cli(home, "init").code == 0
    ran = subprocess.run(  # a process of its own: the limit would be on this one's output, too
        [sys.executable, "-c", START, str(home)], capture_output=True, text=True, env=small.environment()
    )
    fault, after = ran.stdout.splitlines()
    assert "cannot be written" in fault and after == "''", ran.stderr


async def broken(error: Exception) -> None:
    raise error


def test_only_faults_of_the_database_are_waited_out(tmp_path: Path) -> None:
    full = OperationalError("INSERT", {}, Exception("database or disk is full"))
    bug = IntegrityError("INSERT", {}, Exception("UNIQUE constraint failed"))
    assert ledger_fault(ExceptionGroup("", [full, ExceptionGroup("", [full])])) == "database or disk is full"
    assert ledger_fault(bug) == ledger_fault(ExceptionGroup("", [full, NightschoolError()])) == ""
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    health, tries = Health(ledger=ledger), []

    async def at_second_try() -> None:
        tries.append(health.fault)
        if len(tries) == 1:
            raise full

    anyio.run(health.keep, at_second_try)
    assert tries == ["", ""]
    for error in (bug, NightschoolError("no")):
        with pytest.raises(type(error)):
            anyio.run(health.keep, lambda error=error: broken(error))
    ledger.close()
