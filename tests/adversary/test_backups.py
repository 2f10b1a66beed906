"""Backups: consistent, deduplicated, verified; a kill costs nothing; a restored home is the home."""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import small
from nights import NightsHome, home_of_nights
from small import Command

from corpus.errors import GateRefused, IntegrityFault, UsageError
from store import backup as backups
from store import queries
from store.checkpoints.store import CheckpointStore
from store.files.failpoints import BACKUP_POINTS, VARIABLE
from store.home import Home


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> NightsHome:
    """Make a home with three nights and a captured log."""
    made = home_of_nights(tmp_path_factory.mktemp("nights") / "home", "kuk")
    (made.home / "inbox" / "captured-2026-01-01.jsonl").write_text('{"messages": []}\n')
    return made


@pytest.fixture
def nights(three: NightsHome, tmp_path: Path) -> NightsHome:
    return NightsHome(home=Path(shutil.copytree(three.home, tmp_path / "home")), ids=three.ids)


def content(place: Path) -> dict[str, bytes]:
    """Return every file below a folder, but for what a ledger or a lock leaves beside it."""
    files = (path for path in sorted(place.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(place)): path.read_bytes()
        for path in files
        if not path.name.startswith(("ledger.db", "service.lock"))
    }


def test_a_restored_home_is_the_home(nights: NightsHome, tmp_path: Path, command: Command) -> None:
    place, new = tmp_path / "backups", tmp_path / "new" / "home"
    made = command("--home", nights.home, "--json", "backup", "make", place).result
    assert made["copied_bytes"] <= made["nbytes"] and made["files"] > len(nights.ids) * 2
    assert command("--home", new, "--json", "restore", place).result["name"] == made["name"]
    assert content(new) == content(nights.home)
    assert new.stat().st_mode & 0o077 == (new / "token").stat().st_mode & 0o077 == 0
    for words in (("checkpoints", "verify"), ("status",), ("checkpoints", "list")):
        one, other = (command("--home", home, "--json", *words).result for home in (nights.home, new))
        assert one == other
    assert command("--home", new, "pause").code == 0


def test_a_second_backup_copies_only_what_is_new(nights: NightsHome, tmp_path: Path) -> None:
    home, place = Home(nights.home), tmp_path / "backups"
    first = backups.back_up(home, place)
    (home.inbox / "new.jsonl").write_text("12345678\n")
    second = backups.back_up(home, place)
    ledger = (home.path / "ledger.db").stat().st_size
    assert second.copied_bytes <= ledger + 9 + 4096 < first.copied_bytes
    assert backups.check(place) == backups.Checked(backups=[first.name, second.name], problems=[])
    old = backups.restore(place, Home(tmp_path / "old"), first.name)
    assert old.name == first.name and not (tmp_path / "old" / "inbox" / "new.jsonl").exists()


def test_a_backup_during_writes_has_one_state_of_the_ledger(nights: NightsHome, tmp_path: Path) -> None:
    ledger = nights.ledger()
    with ledger.writing() as connection:  # a transaction is open while the ledger is copied
        connection.exec_driver_sql("INSERT INTO meta VALUES ('half', 'done')")
        made = backups.back_up(Home(nights.home), tmp_path / "backups")
    ledger.close()
    backups.restore(tmp_path / "backups", Home(tmp_path / "new"), made.name)
    with closing(sqlite3.connect(tmp_path / "new" / "ledger.db")) as copy:
        assert copy.execute("SELECT count(*) FROM meta WHERE key = 'half'").fetchone() == (0,)


def test_files_that_a_prune_moved_meanwhile_come_from_the_trash(nights: NightsHome, tmp_path: Path) -> None:
    store = CheckpointStore(nights.home / "checkpoints")
    store.sweep([nights.ids[-1]])  # as a prune does whose rows the copied ledger does not have yet
    backups.back_up(Home(nights.home), tmp_path / "backups")
    backups.restore(tmp_path / "backups", Home(tmp_path / "new"))
    assert CheckpointStore(tmp_path / "new" / "checkpoints").verify(nights.ids) == []


MAKE = """
import sys
from pathlib import Path
from store.backup import back_up, restore
from store.home import Home
home, place, new = map(Path, sys.argv[1:])
if new.name == "-":
    back_up(Home(home), place)
else:
    restore(place, Home(new))
"""


@pytest.mark.parametrize("number", [1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("point", BACKUP_POINTS)
def test_a_backup_and_a_restore_that_are_killed_leave_no_half_and_the_next_is_whole(
    nights: NightsHome, tmp_path: Path, point: str, number: int
) -> None:
    place, flag, new = tmp_path / "backups", tmp_path / "flag", tmp_path / "new"
    for target in (Path("-"), new):
        flag.touch()
        words = [sys.executable, "-c", MAKE, str(nights.home), str(place), str(target)]
        environment = small.environment(**{VARIABLE: f"{point}:{number}:{flag}"})
        died = subprocess.run(words, env=environment, capture_output=True, check=False)
        assert died.returncode == -signal.SIGKILL, died.stderr.decode()
        if target is not new:
            assert backups.check(place).backups == []
            backups.back_up(Home(nights.home), place)
        assert not new.exists() and backups.check(place).problems == []
    backups.restore(place, Home(new))
    assert content(new) == content(nights.home)


def test_a_damaged_backup_is_named_and_makes_no_home(
    nights: NightsHome, tmp_path: Path, command: Command
) -> None:
    place, new = tmp_path / "backups", Home(tmp_path / "new")
    made = backups.back_up(Home(nights.home), place)
    listed = json.loads((place / "backups" / f"{made.name}.json").read_text())
    file = next(file for file in listed["files"] if file["path"].endswith(".json"))
    (place / "content" / file["sha256"]).write_bytes(b"flipped")
    ran = command("--json", "backup", "check", place)
    (problem,) = ran.result["problems"]
    assert ran.code == 12 and file["path"] in problem and made.name in problem
    with pytest.raises(IntegrityFault, match="nothing was restored"):
        backups.restore(place, new)
    assert not new.path.exists() and not list(tmp_path.glob("new*"))
    again = backups.back_up(Home(nights.home), place)
    assert backups.check(place).problems != [] or again.copied_bytes > 0


def test_a_list_that_names_a_path_outside_of_the_home_is_refused(nights: NightsHome, tmp_path: Path) -> None:
    place = tmp_path / "backups"
    made = backups.back_up(Home(nights.home), place)
    listed = place / "backups" / f"{made.name}.json"
    listed.write_text(listed.read_text().replace('"config.toml"', '"../../evil.toml"'))
    with pytest.raises(IntegrityFault, match="outside"):
        backups.restore(place, Home(tmp_path / "a" / "new"))
    assert not list(tmp_path.rglob("evil.toml"))


def test_what_cannot_be_backed_up_or_restored_is_refused_with_the_cure(
    nights: NightsHome, tmp_path: Path
) -> None:
    place = tmp_path / "backups"
    with pytest.raises(GateRefused, match="own tools"):
        backups.back_up(Home(nights.home), place, database="postgresql://x/y")
    backups.back_up(Home(nights.home), place)
    with pytest.raises(UsageError, match="not empty"):
        backups.restore(place, Home(nights.home))
    with nights.ledger().reading() as connection:
        active = queries.active(connection).id
    (nights.home / "checkpoints" / f"{active}.json").unlink()
    with pytest.raises(IntegrityFault):
        backups.back_up(Home(nights.home), place)
    assert len(backups.check(place).backups) == 1
