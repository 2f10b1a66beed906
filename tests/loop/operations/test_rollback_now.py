"""`rollback --now` during a night: the night ends at once, and its update is undone."""

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from small import (
    NIGHTSCHOOL,
    Service,
    cli_json,
    correction_lines,
    environment,
    run_cli,
    small_home,
    wait_until,
)

from agents.model.weights.header import WeightsState, read_state
from corpus.aliases import Json
from store.home import Home
from store.ledger.db import Ledger, database_url
from store.nights import history

NIGHT_S = 180.0
YIELDING = "[schedule]\nwindows = []\nyield_seconds = 600\nmax_yield_minutes = 30\n"
"""An update waits for the user who asked last: the night stays where it can be ended in mid-update."""


class NightHome:
    """A home that has read a log, and its service."""

    def __init__(self, home: Path, start: Callable[[Path], Service]) -> None:
        self.home, self._start = home, start
        self.begin()
        self.base = cli_json(home, "ask", "Good morning.")["checkpoint"]

    def begin(self) -> None:
        self.service = self._start(self.home)
        self.url = self.service.ready()["url"].removesuffix("/v1")

    def do(self, operation: str, **arguments: object) -> Json:
        """Run an operation over HTTP, which is faster than starting a command."""
        answer = httpx.post(f"{self.url}/do/{operation}", json=arguments, headers=self.headers(), timeout=60)
        result: Json = json.loads(answer.text.splitlines()[-1])["result"]
        return result

    def status(self) -> Json:
        status: Json = httpx.get(f"{self.url}/status", headers=self.headers(), timeout=60).json()
        return status

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {Home(self.home).token()}"}

    def night(self) -> "subprocess.Popen[str]":
        """Begin a night by a command in its own process, with a retry of undone lessons."""
        command = [str(NIGHTSCHOOL), "--home", str(self.home), "--json", "night", "--retry"]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=environment(),
        )  # fmt: skip

    def ask(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(f"file:{self.home / 'ledger.db'}?mode=ro", uri=True)) as connection:
            return connection.execute(query).fetchall()

    def until_doing(self, kind: str, night: str) -> None:
        doing = f"SELECT 1 FROM work WHERE kind = '{kind}' AND night_id = '{night}' AND state = 'leased'"
        wait_until(lambda: self.ask(doing), f"{kind} of {night} has begun", NIGHT_S)

    def until_waiting(self) -> None:
        """Wait until the update waits between two of its steps."""
        wait_until(lambda: "its update waits" in self.status()["next_update_reason"], "it waits", NIGHT_S)

    def held(self) -> WeightsState:
        words = read_state(Home(self.home).run_dir / "weights.bin")
        assert words is not None
        return words

    def nothing_is_left(self, night: str) -> None:
        """Check that the night has ended without shared weights or work left over."""
        assert (self.held().holds, self.held().dirty) == (self.base, False)
        states = {state for (state,) in self.ask(f"SELECT state FROM work WHERE night_id = '{night}'")}
        assert states == {"done", "withdrawn"}
        assert self.ask("SELECT count(*) FROM nights WHERE state = 'running'") == [(0,)]
        assert self.ask("SELECT count(*) FROM events WHERE kind = 'failure'") == [(0,)]


@pytest.fixture(scope="module")
def night_home(tmp_path_factory: pytest.TempPathFactory, start_service: Callable[..., Service]) -> NightHome:
    folder = tmp_path_factory.mktemp("night_home")
    (folder / "log.jsonl").write_text("".join(f"{line}\n" for line in correction_lines("decision", 8)))
    home = small_home(folder / "home")
    config = (home / "config.toml").read_text().partition("[dreams]")[2]
    (home / "config.toml").write_text(f"{YIELDING}[dreams]{config}")
    cli_json(home, "ingest", folder / "log.jsonl")
    return NightHome(home, start_service)


def ended(command: "subprocess.Popen[str]") -> Json:
    out, _ = command.communicate(timeout=NIGHT_S)
    assert command.returncode == 0, out
    report: Json = json.loads(out)
    return report


def test_a_night_that_is_querying_the_model_is_interrupted_and_keeps_its_lessons(
    night_home: NightHome,
) -> None:
    asking = night_home.night()
    night_home.until_doing("attempt", "n1")
    rollback = night_home.do("rollback", now=True)
    assert (rollback["night"], rollback["from"], rollback["to"]) == ("n1", night_home.base, night_home.base)
    night_home.nothing_is_left("n1")
    assert ended(asking)["reasons"] == ["rolled back by hand"]
    assert night_home.ask("SELECT count(*) FROM signals WHERE state = 'new' AND night_id IS NULL")[0][0] > 0


def test_an_update_in_training_is_undone_with_its_night(night_home: NightHome) -> None:
    asking = night_home.night()
    night_home.until_waiting()
    assert night_home.held().dirty
    refusal = run_cli(night_home.home, "rollback", night_home.base, "--json").failed(13)
    assert "nightschool rollback --now" in refusal and "nightschool cancel" in refusal
    rollback = night_home.do("rollback", now=True, dry_run=True)
    assert (rollback["night"], rollback["to"], rollback["dry_run"]) == ("n2", night_home.base, True)
    assert (
        night_home.status()["last_night"]["state"] == "running" and night_home.held().dirty
    )  # nothing was changed
    rollback = cli_json(night_home.home, "rollback", "--now")
    assert (rollback["night"], rollback["to"]) == ("n2", night_home.base)
    night_home.nothing_is_left("n2")
    (update,) = ended(asking)["updates"]
    assert update["reasons"] == ["rolled back by hand"]
    assert night_home.ask("SELECT state FROM updates") == [("undone",)]
    assert {state for (state,) in night_home.ask("SELECT state FROM pairs")} == {"undone"}


@pytest.mark.slow
def test_a_rollback_now_survives_the_service_and_needs_none(night_home: NightHome, tmp_path: Path) -> None:
    asking = night_home.night()
    night_home.until_waiting()
    night_home.service.process.kill()
    night_home.service.process.wait()
    asking.communicate(timeout=60)
    alone = tmp_path / "alone"
    shutil.copytree(night_home.home, alone)

    # Killed after its rows were written, before anything was broken off: it is made at the next start.
    ledger = Ledger(database_url(night_home.home))
    with ledger.writing() as connection:
        history.roll_back_now(connection, night_home.base, "rolled back by hand", settles=True)
    ledger.close()
    night_home.begin()
    wait_until(lambda: night_home.status()["last_night"]["state"] == "done", "the night is closed", NIGHT_S)
    night_home.nothing_is_left("n3")
    assert night_home.status()["last_night"]["reasons"] == ["rolled back by hand"]

    # Without a service the night that was left open is closed at once.
    rollback = cli_json(alone, "rollback", "--now")
    assert (rollback["night"], rollback["to"]) == ("n3", night_home.base)
    status = cli_json(alone, "status")
    assert (status["last_night"]["state"], status["queue"], status["checkpoint"]) == (
        "done",
        {},
        night_home.base,
    )
