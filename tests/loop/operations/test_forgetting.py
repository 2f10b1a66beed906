"""`forget` through the command line: the captured logs, the logs of the user, and the output."""

import json
import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import small
from conftest import Command

from loop.capture.log import append

SECRET = "the spare key lies under the third fern"
ANNA = [("user", SECRET), ("assistant", "Fine.")]
BORIS = [("user", "Water the palm."), ("assistant", "Now.")]
MORE = [("user", "And now?"), ("assistant", "Now.")]


def line(source: str, turns: Iterable[tuple[str, str]]) -> str:
    return json.dumps({"user": source, "messages": [{"role": role, "content": text} for role, text in turns]})


@pytest.fixture(scope="module")
def fresh_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.fresh_home(tmp_path_factory.mktemp("fresh_home") / "home")


@pytest.fixture
def home(fresh_home: Path, tmp_path: Path, command: Command) -> Path:
    """Make a home with two people in a captured log, and one of them also in a separate log."""
    home = Path(shutil.copytree(fresh_home, tmp_path / "home"))
    for source, turns in (("anna", ANNA), ("boris", BORIS), ("anna", [*ANNA, *MORE])):
        append(captured(home), f"{line(source, turns)}\n".encode())
    own(home).write_text(f"{line('boris', MORE)}\n{line('anna', [*ANNA, *MORE, *MORE])}\n")
    (tmp_path / "kept.json").write_text(f"[{line('carla', ANNA)}, {line('anna', ANNA)}]")
    for place in (home / "inbox", own(home), tmp_path / "kept.json"):
        assert command("--home", home, "ingest", place, "--json").code == 0
    return home


def captured(home: Path) -> Path:
    return home / "inbox" / "captured-2026-01-01.jsonl"


def own(home: Path) -> Path:
    return home.parent / "office.jsonl"


def rows_of(home: Path, question: str) -> list[Any]:
    with closing(sqlite3.connect(home / "ledger.db")) as ledger:
        return ledger.execute(question).fetchall()


def test_a_dry_run_reports_the_same_and_changes_nothing(home: Path, command: Command) -> None:
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    dry = command("--home", home, "forget", "anna", "--dry-run", "--json").result
    assert {path: path.read_bytes() for path in before} == before
    done = command("--home", home, "forget", "anna", "--json").result
    assert done == {**dry, "dry_run": False, "wiped": True} and dry["dry_run"]
    fields = (
        "source matched conversations alike removed updates rollback_to rolled_back commands files dry_run"
    )
    assert set(dry) == set(fields.split())
    assert (dry["source"], dry["matched"], len(dry["conversations"])) == ("anna", "source", 1)
    removed = {name: count for name, count in dry["removed"].items() if count}
    assert removed == {"turns": 6, "work": 3, "captured_lines": 2}
    assert dry["updates"] == dry["commands"] == [] and dry["rollback_to"] is None


def test_the_captured_lines_are_blanked_and_reading_resumes_where_it_was(
    home: Path, command: Command
) -> None:
    left = home / "inbox" / f"{'0' * 16}.tmp"  # of a crash
    left.write_text(SECRET)
    command("--home", home, "forget", "anna", "--json")
    first, second, third = captured(home).read_text().splitlines()
    assert (first, third) == ("", "") and json.loads(second)["user"] == "boris"
    assert captured(home).stat().st_mode & 0o777 == 0o600
    append(
        captured(home),
        f"{line('boris', [*BORIS, *MORE])}\n{line('anna', [*ANNA, *MORE, *MORE, *MORE])}\n".encode(),
    )
    result = command("--home", home, "ingest", home / "inbox", "--json").result
    assert (result["turns"], result["forgotten"], result["conversations"]["new"]) == (2, 1, 0)
    assert rows_of(home, "SELECT count(*) FROM events WHERE kind = 'log_begun_again'") == [(0,)]
    at = "SELECT t.line FROM turns t JOIN conversations c ON c.id = t.conversation_id WHERE source = 'boris'"
    assert rows_of(home, f"{at} AND t.path LIKE '%captured-2026%' ORDER BY t.id") == [(2,), (2,), (4,), (4,)]
    assert list(home.joinpath("inbox").iterdir()) == [captured(home)]


def test_no_file_of_the_home_contains_it_and_the_users_own_logs_are_named_and_unchanged(
    home: Path, command: Command
) -> None:
    before = own(home).read_bytes()
    result = command("--home", home, "forget", "anna", "--json").result
    assert result["files"] == [
        {
            "path": str(own(home).with_name("kept.json")),
            "lines": [2],
            "read": True,
        },  # where it was known already
        {"path": str(own(home)), "lines": [2], "read": True},
    ]
    assert own(home).read_bytes() == before
    command("--home", home, "forget", "carla", "--json")
    assert [path for path in home.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()] == []


def test_a_forgotten_conversation_is_not_ingested_again_from_any_copy(home: Path, command: Command) -> None:
    command("--home", home, "forget", own(home), "--json")
    copy = own(home).with_name("copy.jsonl")
    copy.write_text(own(home).read_text() + line("anna", [*ANNA, ("user", "Thanks.")]) + "\n")
    ran = command("--home", home, "ingest", copy, "--json")
    assert ran.result["conversations"] == {"new": 0, "known": 0} and ran.result["forgotten"] == 3
    shown = command("--home", home, "ingest", home.parent / "kept.json", copy)
    assert shown.code == 0
    assert rows_of(home, "SELECT DISTINCT source FROM conversations ORDER BY source") == [
        ("boris",),
        ("carla",),
    ]
    rows = command("--home", home, "ledger", "conversations", "--json").result["conversations"]
    assert {row["source"] for row in rows} == {"boris", "carla"}


def test_an_unreadable_log_is_named_with_the_lines_that_were_read_from_it(
    home: Path, command: Command
) -> None:
    own(home).write_bytes(b"\0")
    shown = command("--home", home, "forget", "anna", "--dry-run")
    assert shown.code == 0 and str(own(home)) not in shown.out  # it holds it no more
    own(home).unlink()
    own(home).mkdir()
    result = command("--home", home, "forget", "anna", "--dry-run", "--json").result
    assert {"path": str(own(home)), "lines": [2], "read": False} in result["files"]


def test_the_result_is_printed_in_words(home: Path, command: Command) -> None:
    shown = command("--home", home, "forget", "anna")
    assert shown.code == 0 and "anna is a source: 1 conversations were forgotten" in shown.out
    assert "6 turns" in shown.out and "no update learnt from it" in shown.out
    assert f"it is still in {own(home)}, lines 2" in shown.out.replace("\n", "")


@pytest.mark.parametrize("wanted", ["nobody", "", "anna "])
def test_an_unknown_name_is_refused_with_2(home: Path, wanted: str, command: Command) -> None:
    assert "nothing is known of" in command("--home", home, "forget", wanted, "--json").failed(2)
    assert rows_of(home, "SELECT count(*) FROM forgotten") == [(0,)]


def test_forgetting_twice_finds_nothing_the_second_time(home: Path, command: Command) -> None:
    assert command("--home", home, "forget", "anna", "--retrain", "--json").result["rolled_back"] is False
    assert "nothing is known of" in command("--home", home, "forget", "anna", "--json").failed(2)
