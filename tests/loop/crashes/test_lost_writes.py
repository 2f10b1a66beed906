"""Power is lost after each file operation of some nights: the ledger never names a missing checkpoint."""

from collections.abc import Callable
from pathlib import Path

import pytest
from lost_writes import Disk, Replay, read

from corpus.aliases import Json

Night = Callable[..., Json]
STATES = 1000
"""So many states have to be looked at."""


@pytest.fixture(scope="module")
def recorded(short_night: Night, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Json]]:
    """Record a home's `init`, nights, rollbacks and sweeps, operation by operation."""
    folder = tmp_path_factory.mktemp("recorded")
    assert short_night(home=folder / "home", record=folder / "log")["faults"] == []
    return folder / "home", read(folder / "log")


def replay(recorded: tuple[Path, list[Json]], folder: Path, *, to_the_end: bool = True) -> Replay:
    home, operations = recorded
    folder.mkdir(exist_ok=True)
    return Replay(folder).look(operations, home, to_the_end=to_the_end)


def test_after_a_loss_of_power_at_any_moment_the_ledger_names_only_complete_checkpoints(
    recorded: tuple[Path, list[Json]], tmp_path: Path
) -> None:
    states = replay(recorded, tmp_path)
    assert states.wrong == []
    assert states.distinct >= STATES, states.distinct
    print(f"{states.states} states, {states.distinct} of them distinct")  # noqa: T201  (shown with -rP)


def test_every_operation_on_the_files_was_recorded(recorded: tuple[Path, list[Json]]) -> None:
    home, operations = recorded
    disk = Disk(str(home.parent))
    for operation in operations:
        disk.take(operation)
    files = [path for path in home.glob("checkpoints/**/*") if path.is_file()]
    there = {str(path.relative_to(home.parent)): path.read_bytes() for path in files}
    assert {path: bytes(data) for path, data in disk.live().items()} == there
    assert {operation["op"] for operation in operations} == {
        "mkdir", "create", "write", "fsync", "rename", "unlink", "commit"
    }  # fmt: skip


def is_file(operation: Json) -> bool:
    return str(operation["path"]).endswith(".tmp")


def unsynced(is_meant: Callable[[str], bool]) -> Callable[[list[Json]], list[Json]]:
    """Return the change that removes the syncs of these files or folders."""
    return lambda log: [
        operation for operation in log if operation["op"] != "fsync" or not is_meant(operation["path"])
    ]


MISTAKES: dict[str, Callable[[list[Json]], list[Json]]] = {
    "files are not synced": unsynced(lambda path: path.endswith(".tmp")),
    "manifests are not synced": unsynced(lambda path: path.endswith(".tmp") and "/blobs/" not in path),
    "blobs are not synced": unsynced(lambda path: path.endswith(".tmp") and "/blobs/" in path),
    "no folder is synced": unsynced(lambda path: not path.endswith(".tmp")),
    "the blobs' folder is not synced": unsynced(lambda path: path.endswith("/blobs")),
    "the manifests' folder is not synced": unsynced(lambda path: path.endswith("/checkpoints")),
    "the home is not synced": unsynced(lambda path: path.endswith("/home")),
    "files are synced once they have their names": lambda log: _swapped(log, "fsync", "rename"),
    "the ledger is told before the manifest has its name": lambda log: _early(log),
    "a state goes before it is marked as given up": lambda log: _unmarked(log),
}


def _swapped(log: list[Json], first: str, second: str) -> list[Json]:
    """Swap each of these that comes right before the other with it."""
    log, names = list(log), {}
    for place in range(len(log) - 1):
        if (log[place]["op"], log[place + 1]["op"]) == (first, second) and is_file(log[place]):
            names = {**log[place], "path": log[place + 1]["to"]}
            log[place], log[place + 1] = log[place + 1], names
    return log


def _early(log: list[Json]) -> list[Json]:
    """Move each commit that first names a checkpoint before the rename of its manifest."""
    log = list(log)
    for place, operation in enumerate(log):
        if operation["op"] == "rename" and operation["to"].endswith(".json"):
            name = Path(operation["to"]).stem
            commit = next((o for o in log[place:] if o["op"] == "commit" and name in o["named"]), None)
            if commit and not any(o["op"] == "commit" and name in o["named"] for o in log[:place]):
                log.insert(place, commit)
                return log
    raise AssertionError("no commit names a new checkpoint")


def _unmarked(log: list[Json]) -> list[Json]:
    """Leave out the sync of the first mark of a dropped state before its file is removed."""
    place = next(i for i, o in enumerate(log) if o["op"] == "rename" and o["to"].endswith(".dropped"))
    assert log[place + 1]["op"] == "fsync"
    return [*log[: place + 1], *log[place + 2 :]]


LONG = ("files are synced once they have their names", "a state goes before it is marked as given up")
"""Mistakes that are found only after many states."""


@pytest.mark.parametrize(
    "mistake", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in MISTAKES]
)
def test_a_wrong_order_of_writes_is_detected(
    recorded: tuple[Path, list[Json]], tmp_path: Path, mistake: str
) -> None:
    home, operations = recorded
    changed = MISTAKES[mistake](operations)
    assert changed != operations
    assert replay((home, changed), tmp_path, to_the_end=False).wrong != []


@pytest.mark.slow
@pytest.mark.parametrize(
    "point",
    ["optimizer.renamed:1", "folder.made:1", "folder.made:2"],
)
def test_leftovers_of_a_dead_process_are_made_durable_before_they_are_named(
    short_night: Night, tmp_path: Path, point: str
) -> None:
    """The next process finds the home, the checkpoint folder and the optimizer's state already there."""
    flag, log = tmp_path / "flag", tmp_path / "log"
    flag.touch()
    died = short_night(home=tmp_path / "home", record=log, crash=f"{point}:{flag}")
    assert died == {"status": -9}
    after = short_night(home=tmp_path / "home", record=log, trainer=True)
    assert after["faults"] == []
    assert replay((tmp_path / "home", read(log)), tmp_path / "replay", to_the_end=False).wrong == []
