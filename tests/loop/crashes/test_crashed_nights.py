"""A whole night with its real processes dies at a durable step, or finds a full disk at its update."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import pytest
from chaos import NIGHT_S, START_S, Place, cleaned_up, faults, prepared_home
from lost_writes import Disk, Replay, read

from agents.model.weights.header import read_state
from store.files.failpoints import POINTS, VARIABLE
from store.home import Home

pytestmark = pytest.mark.slow  # test_crashes.py and test_full_disk.py do the same with short nights

RECOVERED_S = 5.0
"""What is promised of the next start, beside what any start takes here and now to load its libraries."""
SLACK = 3
"""A start takes so many times longer when the machine has other work; `test_crashes.py` holds the promise."""
BY_TRAINER = ("weights", "optimizer", "manifest", "update", "candidate", "restore")
"""Files and moments whose points the trainer comes by, in a process of its own."""
NOT_IN_A_NIGHT = ("folder", "mark", "states", "stale", "log", "vectors")
"""A first night gives nothing up and forgets nothing; folders are `init`'s, and vectors come before its
update."""
RECORDING = Path(__file__).parents[1] / "recording"
STATES = 1000
"""So many states have to be looked at."""


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """A night that nothing disturbed, from the start of its update."""

    checkpoint: str
    start_s: float
    """From the start of its process until the mapping held the active checkpoint."""


def served_s(place: Place, **more: str) -> tuple[float, int]:
    """Run the night to its end; return the seconds until the active checkpoint was served, and its code."""
    active, mapping = place.active(), Home(place.path).run_dir / "weights.bin"
    before = mapping.stat().st_ino if mapping.exists() else 0
    began, command = monotonic(), place.start("--json", "night", **more)

    def serves() -> bool:
        try:
            words = read_state(mapping)
            return mapping.stat().st_ino != before and words is not None and words.holds == active
        except (FileNotFoundError, ValueError):  # it is being made
            return False

    command.wait_until(serves, "the active checkpoint is served", START_S)
    seconds = monotonic() - began
    return seconds, command.ended(NIGHT_S)


@pytest.fixture(scope="module")
def at_update(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A home whose night was killed at the first step of its update: everything is dreamt and paired. Copy
    it."""
    folder = tmp_path_factory.mktemp("at-update")
    with cleaned_up(prepared_home(folder)) as place:
        flag = folder / "flag"
        flag.touch()
        command = place.start("night", NS_CRASH_AT=f"update.marked:1:{flag}:all")
        assert command.ended() == -signal.SIGKILL, command.log()
        yield place


@pytest.fixture(scope="module")
def undisturbed(at_update: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    with cleaned_up(at_update.copy(tmp_path_factory.mktemp("undisturbed") / "home")) as place:
        seconds, code = served_s(place)
        assert (code, faults(place)) == (0, [])
        yield Undisturbed(checkpoint=place.active(), start_s=seconds)


@pytest.fixture
def place(at_update: Place, tmp_path: Path) -> Iterator[Place]:
    with cleaned_up(at_update.copy(tmp_path / "home")) as copy:
        yield copy


def crash_and_recover(place: Place, undisturbed: Undisturbed, point: str, victims: str) -> None:
    """Crash the night at this point; check that it then ends like the undisturbed one."""
    flag = place.path.with_suffix(".flag")
    flag.touch()
    command = place.start("--json", "night", **{VARIABLE: f"{point}:1:{flag}{victims}"})
    code = command.ended(NIGHT_S)
    assert not flag.exists(), f"{point} was not reached"
    if not victims and point.split(".")[0] in BY_TRAINER:
        assert code == 0, command.log()  # the service has started another one
    else:
        assert code == -signal.SIGKILL, command.log()
        seconds, code = served_s(place)
        assert code == 0
        print(f"{point}: {seconds:.1f} s, {undisturbed.start_s:.1f} s undisturbed")  # noqa: T201  (shown with -rP)
        assert seconds < SLACK * undisturbed.start_s + RECOVERED_S
    assert place.active() == undisturbed.checkpoint
    assert faults(place) == []


def test_a_night_whose_processes_all_die_before_a_name_is_durable_resumes_and_ends_like_the_undisturbed_one(
    place: Place, undisturbed: Undisturbed
) -> None:
    crash_and_recover(place, undisturbed, "weights.renamed", ":all")


@pytest.mark.parametrize("victims", ["", ":all"], ids=["one process", "all processes"])
@pytest.mark.parametrize("point", [point for point in POINTS if point.split(".")[0] not in NOT_IN_A_NIGHT])
def test_a_night_that_dies_at_any_point_resumes_and_ends_like_the_undisturbed_one(
    place: Place, undisturbed: Undisturbed, point: str, victims: str
) -> None:
    if point == "orphans.unlinked":
        (place.path / "checkpoints" / "blobs" / "left.tmp").write_bytes(b"by a process that died")
    crash_and_recover(place, undisturbed, point, victims)


def test_a_night_whose_trainer_cannot_write_ends_with_the_reason_and_the_parent_and_can_be_repeated(
    place: Place, undisturbed: Undisturbed
) -> None:
    parent = place.active()
    before = sorted(path.name for path in (place.path / "checkpoints").rglob("*.*"))
    (base,) = (place.path / "checkpoints" / "blobs").glob("*.*")
    # Files of the mapping's size and of the weights' are let through, and the optimizer's state, which is
    # larger, not.
    code = place.start("--json", "night", limit=base.stat().st_size * 5 // 4).ended(NIGHT_S)
    assert code == 0
    assert place.ask("SELECT state FROM nights") == [("done",)]
    ((state, reasons),) = place.ask("SELECT state, reasons FROM updates")
    assert state == "refused" and "the optimizer cannot be written" in reasons and "ulimit -f" in reasons
    assert place.active() == parent
    assert sorted(path.name for path in (place.path / "checkpoints").rglob("*.*")) == before
    assert faults(place) == []
    assert place.do("night")["updates"][0]["verdict"] == "keep"  # its pairs had waited


def test_after_any_loss_of_power_in_a_whole_night_the_ledger_names_only_complete_checkpoints(
    place: Place, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    (tmp_path / "states").mkdir()
    disk = Disk(
        str(tmp_path), [place.path, *place.path.glob("checkpoints"), *place.path.glob("checkpoints/**/*")]
    )
    command = place.start("--json", "night", NS_RECORD=str(log), PYTHONPATH=f"{RECORDING}:{Path.cwd()}")
    assert command.ended(NIGHT_S) == 0
    assert place.active() == undisturbed.checkpoint
    replay = Replay(tmp_path / "states").look(read(log), place.path, disk=disk)
    print(f"{replay.states} states, {replay.distinct} of them distinct")  # noqa: T201  (shown with -rP)
    assert replay.wrong == [] and replay.states >= STATES
