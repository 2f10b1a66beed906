"""`rollback --now` while a night runs: it ends at once, whatever it was doing, and what it made is undone."""

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


class Village:
    """A home that has heard a log, and its service."""

    def __init__(self, home: Path, start: Callable[[Path], Service]) -> None:
        self.home, self._start = home, start
        self.begin()
        self.base = cli_json(home, "ask", "Good morning.")["checkpoint"]

    def begin(self) -> None:
        self.service = self._start(self.home)
        self.url = self.service.ready()["url"].removesuffix("/v1")

    def do(self, operation: str, **arguments: object) -> Json:
        """An operation over HTTP: a night has no time to go on while a command is started."""
        answer = httpx.post(f"{self.url}/do/{operation}", json=arguments, headers=self.headers(), timeout=60)
        told: Json = json.loads(answer.text.splitlines()[-1])["result"]
        return told

    def status(self) -> Json:
        told: Json = httpx.get(f"{self.url}/status", headers=self.headers(), timeout=60).json()
        return told

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {Home(self.home).token()}"}

    def night(self) -> "subprocess.Popen[str]":
        """A night, begun by a command of its own; what was set aside before is taken up again."""
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
        """Until the update waits between two of its steps."""
        wait_until(lambda: "its update waits" in self.status()["next_update_reason"], "it waits", NIGHT_S)

    def held(self) -> WeightsState:
        words = read_state(Home(self.home).run_dir / "weights.bin")
        assert words is not None
        return words

    def nothing_is_left(self, night: str) -> None:
        """The night has ended, nothing of it is in the mapping or still to be done."""
        assert (self.held().holds, self.held().dirty) == (self.base, False)
        states = {state for (state,) in self.ask(f"SELECT state FROM work WHERE night_id = '{night}'")}
        assert states == {"done", "withdrawn"}
        assert self.ask("SELECT count(*) FROM nights WHERE state = 'running'") == [(0,)]
        assert self.ask("SELECT count(*) FROM events WHERE kind = 'failure'") == [(0,)]


@pytest.fixture(scope="module")
def village(tmp_path_factory: pytest.TempPathFactory, start_service: Callable[..., Service]) -> Village:
    folder = tmp_path_factory.mktemp("village")
    (folder / "log.jsonl").write_text("".join(f"{line}\n" for line in correction_lines("decision", 8)))
    home = small_home(folder / "home")
    config = (home / "config.toml").read_text().partition("[dreams]")[2]
    (home / "config.toml").write_text(f"{YIELDING}[dreams]{config}")
    cli_json(home, "ingest", folder / "log.jsonl")
    return Village(home, start_service)


def ended(command: "subprocess.Popen[str]") -> Json:
    out, _ = command.communicate(timeout=NIGHT_S)
    assert command.returncode == 0, out
    told: Json = json.loads(out)
    return told


def test_a_night_that_asks_the_model_is_broken_off_and_its_lessons_stay(village: Village) -> None:
    asking = village.night()
    village.until_doing("attempt", "n1")
    told = village.do("rollback", now=True)
    assert (told["night"], told["from"], told["to"]) == ("n1", village.base, village.base)
    village.nothing_is_left("n1")
    assert ended(asking)["reasons"] == ["rolled back by hand"]
    assert village.ask("SELECT count(*) FROM signals WHERE state = 'new' AND night_id IS NULL")[0][0] > 0


def test_an_update_in_training_is_undone_with_its_night(village: Village) -> None:
    asking = village.night()
    village.until_waiting()
    assert village.held().dirty
    refusal = run_cli(village.home, "rollback", village.base, "--json").failed(13)
    assert "nightschool rollback --now" in refusal and "nightschool cancel" in refusal
    told = village.do("rollback", now=True, dry_run=True)
    assert (told["night"], told["to"], told["dry_run"]) == ("n2", village.base, True)
    assert (
        village.status()["last_night"]["state"] == "running" and village.held().dirty
    )  # nothing was changed
    told = cli_json(village.home, "rollback", "--now")
    assert (told["night"], told["to"]) == ("n2", village.base)
    village.nothing_is_left("n2")
    (update,) = ended(asking)["updates"]
    assert update["reasons"] == ["rolled back by hand"]
    assert village.ask("SELECT state FROM updates") == [("undone",)]
    assert {state for (state,) in village.ask("SELECT state FROM pairs")} == {"undone"}


@pytest.mark.slow
def test_a_rollback_now_outlives_the_service_and_needs_none(village: Village, tmp_path: Path) -> None:
    asking = village.night()
    village.until_waiting()
    village.service.process.kill()
    village.service.process.wait()
    asking.communicate(timeout=60)
    alone = tmp_path / "alone"
    shutil.copytree(village.home, alone)

    # Killed after its rows were written, before anything was broken off: it is made at the next start.
    ledger = Ledger(database_url(village.home))
    with ledger.writing() as connection:
        history.roll_back_now(connection, village.base, "rolled back by hand", settles=True)
    ledger.close()
    village.begin()
    wait_until(lambda: village.status()["last_night"]["state"] == "done", "the night is closed", NIGHT_S)
    village.nothing_is_left("n3")
    assert village.status()["last_night"]["reasons"] == ["rolled back by hand"]

    # Without a service the night that was left open is closed at once.
    told = cli_json(alone, "rollback", "--now")
    assert (told["night"], told["to"]) == ("n3", village.base)
    status = cli_json(alone, "status")
    assert (status["last_night"]["state"], status["queue"], status["checkpoint"]) == (
        "done",
        {},
        village.base,
    )
