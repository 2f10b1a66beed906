"""A ledger that is lost, emptied, older than the files, or another home's: no checkpoint file is lost."""

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from nights import NightsHome, home_of_nights
from small import Command

from store import belonging, queries
from store.belonging import LedgerMark, Owner, problem_of
from store.checkpoints.store import CheckpointStore
from store.nights.rebuild import Found, choose_active, lineage

LEDGER = "ledger.db"
DECISIONS = "kkukk"


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> NightsHome:
    """Make five nights, of which the third was undone by its verdict."""
    return home_of_nights(tmp_path_factory.mktemp("nights") / "home", DECISIONS)


@pytest.fixture
def lived_in(five: NightsHome, tmp_path: Path, command: Command) -> Iterator[NightsHome]:
    """Copy that home, and start it once as this version, so that ledger and files carry their marks."""
    copy = NightsHome(home=Path(shutil.copytree(five.home, tmp_path / "home")), ids=five.ids)
    assert command("--home", copy.home, "pause").code == 0
    yield copy


def manifests(home: NightsHome) -> set[str]:
    return {path.stem for path in (home.home / "checkpoints").glob("*.json")}


def remove_ledger(home: NightsHome) -> None:
    for path in home.home.glob(f"{LEDGER}*"):
        path.unlink()


def empty_ledger(home: NightsHome) -> None:
    remove_ledger(home)
    (home.home / LEDGER).touch()


def other_database(home: NightsHome) -> None:
    with (home.home / "config.toml").open("r+") as file:
        text = file.read()
        file.seek(0)
        file.write(f'database = "sqlite:///{home.home / "new.db"}"\n{text}')


def another_home(home: NightsHome) -> None:
    """Put the ledger of another home with the same model in the place of this one's."""
    other = home_of_nights(home.home.with_name("other"), "k")
    with other.ledger().writing() as connection:
        belonging.next_generation(connection, None)
    remove_ledger(home)
    shutil.copy(other.home / LEDGER, home.home)


@pytest.mark.parametrize("accident", [remove_ledger, empty_ledger, other_database, another_home])
@pytest.mark.parametrize("words", [("ingest", os.devnull), ("night",), ("run",), ("init",), ("pause",)])
def test_no_command_removes_a_file_when_the_ledger_is_lost(
    lived_in: NightsHome, command: Command, accident: Callable[[NightsHome], None], words: tuple[str, ...]
) -> None:
    accident(lived_in)
    before = sorted(path for path in (lived_in.home / "checkpoints").rglob("*") if path.is_file())
    message = command("--home", lived_in.home, "--json", *words).failed(12)
    assert "recover" in message
    after = sorted(path for path in (lived_in.home / "checkpoints").rglob("*") if path.is_file())
    assert before == after


@pytest.mark.parametrize("accident", [remove_ledger, empty_ledger, other_database])
def test_recover_brings_back_checkpoints_lineage_and_pointer(
    lived_in: NightsHome, command: Command, accident: Callable[[NightsHome], None]
) -> None:
    with lived_in.ledger().reading() as connection:
        rows = {row.id: (row.parent_id, row.state) for row in queries.checkpoints(connection)}
        active = queries.active(connection).id
    accident(lived_in)
    result = command("--home", lived_in.home, "--json", "recover").result
    assert result["active"] == active and set(result["entered"]) == set(rows) and result["known"] is True
    listed = command("--home", lived_in.home, "--json", "checkpoints", "list").result["checkpoints"]
    assert {row["id"]: (row["parent_id"], row["state"]) for row in listed} == rows
    assert command("--home", lived_in.home, "--json", "checkpoints", "verify").result["ledger"] == []
    assert command("--home", lived_in.home, "resume").code == 0
    assert manifests(lived_in) == set(rows)


def test_without_the_files_own_mark_the_newest_certainly_kept_checkpoint_is_active(
    lived_in: NightsHome, command: Command
) -> None:
    (lived_in.home / "checkpoints" / "owner").unlink()
    remove_ledger(lived_in)
    result = command("--home", lived_in.home, "--json", "recover").result
    assert result["known"] is False and result["active"] == lived_in.ids[4]  # the last one has no child
    again = command("--home", lived_in.home, "--json", "recover", "--active", lived_in.ids[5][:10]).result
    assert again["active"] == lived_in.ids[5] and again["entered"] == []


def test_an_older_ledger_sweeps_nothing_and_recover_enters_the_rest(
    five: NightsHome, lived_in: NightsHome, command: Command, tmp_path: Path
) -> None:
    earlier = home_of_nights(tmp_path / "earlier", "kk")
    owner = belonging.owner_of(CheckpointStore(lived_in.home / "checkpoints"))
    assert owner is not None
    with closing(sqlite3.connect(earlier.home / LEDGER)) as copy, copy:
        copy.execute("UPDATE meta SET value = ? WHERE key = 'home'", (owner.home,))
    remove_ledger(lived_in)
    shutil.copy(earlier.home / LEDGER, lived_in.home)
    assert set(earlier.ids) < set(lived_in.ids)
    assert command("--home", lived_in.home, "pause").code == 0
    assert manifests(lived_in) == set(five.ids)
    message = command("--home", lived_in.home, "--json", "checkpoints", "prune", "--keep-last", "1").failed(
        13
    )
    assert "older" in message and "recover" in message
    checks = command("--home", lived_in.home, "--json", "doctor").result["checks"]
    assert [check["check"] for check in checks if not check["ok"]] == ["belonging"]
    assert command("--home", lived_in.home, "--json", "recover").result["active"] == five.ids[5]
    checks = command("--home", lived_in.home, "--json", "doctor").result["checks"]
    assert all(check["ok"] for check in checks)


def test_a_pruned_checkpoint_waits_in_the_trash_and_comes_back(
    lived_in: NightsHome, command: Command
) -> None:
    pruned = command("--home", lived_in.home, "--json", "checkpoints", "prune", "--keep-last", "1").result
    assert pruned["pruned"] and pruned["trash_bytes"] >= pruned["freed_bytes"] > 0
    remove_ledger(lived_in)
    result = command("--home", lived_in.home, "--json", "recover", "--trash").result
    assert set(result["entered"]) == set(lived_in.ids) and result["put_back"] > 0
    store = CheckpointStore(lived_in.home / "checkpoints")
    assert store.verify(lived_in.ids) == [] and store.trash.files() == []


def test_empty_trash_alone_prunes_nothing_and_frees_the_trash(lived_in: NightsHome, command: Command) -> None:
    command("--home", lived_in.home, "--json", "checkpoints", "prune", "--keep-last", "2")
    there = manifests(lived_in)
    emptied = command("--home", lived_in.home, "--json", "checkpoints", "prune", "--empty-trash").result
    assert emptied["pruned"] == [] and emptied["trash_bytes"] == 0 and manifests(lived_in) == there


def test_what_was_swept_long_ago_is_deleted_at_the_next_start(lived_in: NightsHome, command: Command) -> None:
    command("--home", lived_in.home, "checkpoints", "prune", "--keep-last", "2")
    store = CheckpointStore(lived_in.home / "checkpoints")
    old, *fresh = store.trash.files()
    os.utime(old, (1e9, 1e9))
    assert command("--home", lived_in.home, "resume").code == 0
    assert store.trash.files() == fresh


def test_recover_takes_an_intact_ancestor_when_the_active_checkpoint_is_damaged(
    lived_in: NightsHome, command: Command
) -> None:
    weights = CheckpointStore(lived_in.home / "checkpoints").blobs.path(
        CheckpointStore(lived_in.home / "checkpoints").manifest(lived_in.ids[5]).weights
    )
    weights.write_bytes(b"gone")
    remove_ledger(lived_in)
    result = command("--home", lived_in.home, "--json", "recover").result
    assert result["active"] == lived_in.ids[4] and result["damaged"] == [lived_in.ids[5]]


# ---------------------------------------------------------------- the comparison itself


def mark(named: set[str], home: str = "h", generation: int = 3) -> LedgerMark:
    return LedgerMark(home=home, generation=generation, named=frozenset(named), active=max(named, default=""))


@pytest.mark.parametrize(
    ("ledger", "has_owner", "on_disk", "kind"),
    [
        (mark({"a", "b"}), True, {"a", "b"}, None),
        (mark({"a", "b"}), True, {"a", "b", "c"}, None),  # a night died before its row
        (mark({"a", "b"}, generation=2), True, {"a", "b", "c"}, "older"),
        (mark({"a", "b"}, generation=2), True, {"a", "b"}, None),  # both were copied, the ledger first
        (mark({"a"}), True, {"a", "b", "c"}, "older"),
        (mark({"a"}, home="", generation=0), False, {"a"}, None),  # made by an earlier version
        (mark({"a"}, home="", generation=0), False, {"a", "b", "c"}, "older"),
        (mark({"a"}, home="x"), True, {"a"}, "foreign"),
        (mark(set(), home="", generation=0), True, {"a"}, "lost"),
        (mark(set(), home="", generation=0), False, {"a", "b"}, "lost"),
        (mark(set(), home="", generation=0), False, {"a"}, None),  # `init` died before its row
        (mark(set(), home="", generation=0), False, set(), None),
    ],
)
def test_a_ledger_belongs_to_the_files_only_if_id_age_and_names_agree(
    ledger: LedgerMark, has_owner: bool, on_disk: set[str], kind: str | None
) -> None:
    owner = Owner(home="h", generation=3, active="a", kept=["a"]) if has_owner else None
    found = problem_of(ledger, owner, frozenset(on_disk), "checkpoints")
    assert (found.kind if found else None) == kind


def test_a_parent_that_is_on_no_disk_leaves_no_gap_in_the_lineage() -> None:
    found = [
        Found(id="c", parent="b", weights_sha256="3", written=3, intact=True),
        Found(id="d", parent="c", weights_sha256="4", written=2, intact=True),
    ]
    rows = lineage(found, set(), 0, "now")
    assert [(row.id, row.parent_id, row.number, row.pruned) for row in rows] == [
        ("b", None, 0, "now"),
        ("c", "b", 1, None),
        ("d", "c", 2, None),
    ]
    assert choose_active(found, None) == "c"
