"""An update that waits, is cancelled, or is only computed, through the real command line and service."""

import json
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import Any

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

from corpus.aliases import Json
from loop.operations.status import status
from store.home import Home

NIGHT_S, STOP_S = 180.0, 5.0
YIELDING = "\n[schedule]\nwindows = []\nyield_seconds = 600\nmax_yield_minutes = {minutes}\n"


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Make homes that have read a log to learn from."""

    def make() -> Path:
        folder = tmp_path_factory.mktemp("taught")
        (folder / "log.jsonl").write_text("".join(f"{line}\n" for line in correction_lines("decision", 8)))
        home = small_home(folder / "home")
        cli_json(home, "ingest", folder / "log.jsonl")
        return home

    return make


@pytest.fixture(scope="module")
def unread(taught: Callable[[], Path]) -> Path:
    """Make a home with conversations that were not extracted yet."""
    return taught()


def night(home: Path, *options: str) -> "subprocess.Popen[str]":
    """Begin a night in a process of its own."""
    command = [str(NIGHTSCHOOL), "--home", str(home), "--json", "night", *options]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=environment(),
    )  # fmt: skip


def ended(command: "subprocess.Popen[str]") -> Json:
    """Return the report of a night that has ended."""
    out, _ = command.communicate(timeout=NIGHT_S)
    assert command.returncode == 0, out
    report: Json = json.loads(out)
    return report


def reason(home: Path) -> str:
    """Return why no night begins now, or what the running one waits for."""
    return status(home).next_update_reason or ""


def is_over(home: Path) -> bool:
    """Return whether the last night has ended."""
    night = status(home).last_night
    return night is not None and night.state == "done"


def until_it_waits(home: Path, why: str) -> None:
    wait_until(lambda: f"its update waits: {why}" in reason(home), f"the update waits ({why})", NIGHT_S)


def dump(home: Path) -> list[str]:
    """Return the whole ledger."""
    with closing(sqlite3.connect(f"file:{home / 'ledger.db'}?mode=ro", uri=True)) as connection:
        return list(connection.iterdump())


def ask(home: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(f"file:{home / 'ledger.db'}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


def on_disk(home: Path) -> dict[str, bytes]:
    """Return checkpoints, and the shared weights with their header where there are any."""
    places = [home / "checkpoints", Home(home).run_dir]
    files = (path for place in places for path in sorted(place.rglob("*")) if path.is_file())
    return {str(path): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def kept(taught: Callable[[], Path], start_service: Callable[..., Service]) -> Iterator[Service]:
    """Run a service whose update waited through a pause and a stop, and was kept after a resume."""
    home = taught()
    first = start_service(home)
    first.ready()
    asking = night(home)
    wait_until(lambda: reason(home) == "night n1 is running", "the night has begun", NIGHT_S)
    assert cli_json(home, "pause") == {"paused": True}
    until_it_waits(home, "paused")
    before = on_disk(home)
    assert "night n1" in reason(home) and on_disk(home) == before  # no step is made
    began = monotonic()
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(30) == 0 and monotonic() - began < STOP_S
    asking.communicate(timeout=30)
    assert asking.returncode == 1
    second = start_service(home)
    second.ready()
    until_it_waits(home, "paused")  # a restart does not take the pause back
    cli_json(home, "resume")
    wait_until(lambda: is_over(home), "the end of the night", NIGHT_S)
    yield second


@pytest.mark.slow
def test_an_update_waits_through_a_pause_and_a_restart_and_is_kept_after_a_resume(kept: Service) -> None:
    update = cli_json(kept.home, "status")["last_update"]
    assert (update["state"], update["steps"] > 1) == ("kept", True), update
    assert ask(kept.home, "SELECT count(*) FROM steps")[0][0] == update["steps"]
    assert ask(kept.home, "SELECT count(*) FROM events WHERE kind = 'failure'") == [(0,)]


@pytest.mark.slow
def test_a_night_started_by_command_in_a_paused_home_is_not_held(kept: Service) -> None:
    cli_json(kept.home, "pause")
    assert cli_json(kept.home, "night")["reasons"] == ["no new lessons since the last night"]
    assert reason(kept.home) == "paused: `nightschool resume` to go on"
    cli_json(kept.home, "resume")


@pytest.mark.slow
def test_cancelling_without_an_update_is_refused(kept: Service) -> None:
    message = run_cli(kept.home, "cancel", "--json").failed(13)
    assert "no update is being trained: nothing was changed" in message


@pytest.mark.slow
def test_a_dry_run_through_the_service_computes_the_last_kept_updates_steps_and_changes_nothing(
    kept: Service,
) -> None:
    rows, files = dump(kept.home), on_disk(kept.home)
    assert any(path.endswith("weights.bin") for path in files)
    dry = cli_json(kept.home, "night", "--dry-run")
    assert dump(kept.home) == rows and on_disk(kept.home) == files
    assert dry["dry_run"] is True and dry["of"] == "update u1" and dry["lessons"] == 0
    assert dry["reasons"] == ["there are no new pairs: these are the ones of update u1"]
    assert len(dry["steps"]) == cli_json(kept.home, "status")["last_update"]["steps"]
    for number, step in enumerate(dry["steps"], start=1):
        assert step["step"] == number and step["steps"] == len(dry["steps"])
        assert step["grad_norm"] > 0 and 0 < step["update_ratio"] < 0.1 and step["chosen_logprob"] < 0
    shown = run_cli(kept.home, "night", "--dry-run")
    assert shown.code == 0 and "nothing was changed" in shown.out and f"{len(dry['steps'])}/" in shown.out


def test_a_dry_run_without_a_service_does_not_extract_waiting_lessons(unread: Path) -> None:
    home = unread
    rows, files = dump(home), on_disk(home)
    dry = cli_json(home, "night", "--dry-run")
    assert dump(home) == rows and on_disk(home) == files
    assert dry["conversations"] == 8 and dry["steps"] == [] and dry["of"] == "nothing"
    assert "no new pairs" in dry["reasons"][0]


@pytest.mark.slow
def test_a_cancelled_update_is_undone_and_its_pairs_wait_for_a_retry(
    unread: Path, start_service: Callable[..., Service]
) -> None:
    home = unread
    config = (home / "config.toml").read_text().partition("[dreams]")[2]
    (home / "config.toml").write_text(f"{YIELDING.format(minutes=30)}[dreams]{config}")
    service = start_service(home)
    service.ready()
    first = cli_json(home, "ask", "Good morning.")["checkpoint"]
    asking = night(home)
    until_it_waits(home, "a user was active within 600 s")
    assert ask(home, "SELECT state FROM updates") == [("planned",)]
    cancelled = cli_json(home, "cancel")
    assert cancelled == {
        "night": "n1",
        "update": "u1",
        "reasons": ["cancelled by hand: nothing of the update was kept"],
    }
    assert [(update["verdict"], update["reasons"]) for update in ended(asking)["updates"]] == [
        ("refused", cancelled["reasons"])
    ]
    shown = cli_json(home, "status")
    assert shown["checkpoint"] == first and shown["last_night"]["reasons"] == cancelled["reasons"]
    assert ask(home, "SELECT count(*) FROM steps") == ask(home, "SELECT count(*) FROM verdicts") == [(0,)]
    assert {state for (state,) in ask(home, "SELECT state FROM pairs")} == {"undone"}
    # The very next night does not take them up, and a dry run shows what a retry would.
    assert "`nightschool night --retry` takes them up again" in cli_json(home, "night")["reasons"][0]
    rows = dump(home)
    dry = cli_json(home, "night", "--dry-run", "--retry")
    assert dry["of"] == "new pairs" and dry["steps"] and dump(home) == rows
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(30) == 0

    (home / "config.toml").write_text(f"{YIELDING.format(minutes=0.01)}[dreams]{config}")
    service = start_service(home)
    service.ready()
    cli_json(home, "ask", "Good morning.")  # the update waits for this user for 0.6 s, and goes on beside her
    (update,) = ended(night(home, "--retry"))["updates"]
    assert update["id"] == "u3" and update["steps"] > 0
