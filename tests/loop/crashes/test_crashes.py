"""A process dies before and after each durable step; the next finds a complete home and ends the night."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from corpus.aliases import Json
from store.files.failpoints import POINTS, VARIABLE

Night = Callable[..., Json]
RECOVERED_S = 5.0
"""What is promised: from the start of the next process, its libraries loaded, until it serves the active
checkpoint."""
OF_FIRST_UPDATE = 3
"""Which weights those of the first update are: after the orphan's and the base's."""
SEED = int(os.environ.get("CHAOS_SEED", "1"))


@pytest.fixture(scope="module")
def undisturbed(short_night: Night, tmp_path_factory: pytest.TempPathFactory) -> Json:
    """Run undisturbed nights; return the home's state and how often each point is reached."""
    return short_night(home=tmp_path_factory.mktemp("undisturbed") / "home", count=True)


def crash(short_night: Night, home: Path, point: str, number: int, *, victims: str = "") -> None:
    """Crash a night at this point."""
    flag = home.with_suffix(".flag")
    flag.touch()
    died = short_night(home=home, crash=f"{point}:{number}:{flag}{victims}")
    assert died == {"status": -signal.SIGKILL}, died
    assert not flag.exists()


def assert_recovers(short_night: Night, home: Path, undisturbed: Json) -> Json:
    """Start again, and check that the home ends like the undisturbed one."""
    after = short_night(home=home)
    assert after["status"] == 0 and "error" not in after, after
    assert after["recovered"] and after["left"] == []
    assert after["seconds"] < RECOVERED_S
    assert (after["faults"], after["needless"], after["dirty"]) == ([], [], False)
    for name in ("active", "holds", "files", "others"):
        assert after[name] == undisturbed[name]
    return after


def test_a_short_night_reaches_every_failpoint(undisturbed: Json) -> None:
    assert [point for point, count in undisturbed["counts"].items() if not count] == []


def one_of_each_kind() -> list[str]:
    """Draw one point of each kind of file; `..._at_every_pass_of_a_point_...` takes them all."""
    kinds = sorted({point.partition(".")[0] for point in POINTS})
    points = {kind: [point for point in POINTS if point.partition(".")[0] == kind] for kind in kinds}
    return [random.Random(f"{SEED} {kind}").choice(points[kind]) for kind in kinds]


@pytest.mark.parametrize("point", one_of_each_kind())
def test_a_crash_at_any_point_is_recovered_from_in_under_five_seconds(
    short_night: Night, undisturbed: Json, tmp_path: Path, point: str
) -> None:
    number = random.Random(f"{SEED} {point}").randint(1, undisturbed["counts"][point])
    crash(short_night, tmp_path / "home", point, number)
    assert_recovers(short_night, tmp_path / "home", undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_a_crash_at_every_pass_of_a_point_is_recovered_from(
    short_night: Night, undisturbed: Json, tmp_path: Path, point: str
) -> None:
    for number in range(1, undisturbed["counts"][point] + 1):
        crash(short_night, tmp_path / f"home{number}", point, number, victims=":all")
        assert_recovers(short_night, tmp_path / f"home{number}", undisturbed)


def test_a_crash_during_recovery_is_recovered_from(
    short_night: Night, undisturbed: Json, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    crash(short_night, home, "weights.renamed", OF_FIRST_UPDATE)
    for point in ("orphans.unlinked", "restore.marked", "restore.held"):
        crash(short_night, home, point, 1)
    assert_recovers(short_night, home, undisturbed)


def reach(sentence: str) -> int:
    """Return the exit code of a process that reaches one point twice."""
    code = "from store.files.failpoints import reach\nfor _ in range(2): reach('manifest', 'renamed')"
    environment = {**os.environ, VARIABLE: sentence}
    return subprocess.run([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL).returncode


def test_a_process_dies_once_at_its_failpoint_and_never_without_one(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    assert reach("") == 0
    assert reach(f"manifest.kept:1:{flag}") == 0
    assert reach(f"manifest.renamed:3:{flag}") == 0
    assert reach(f"manifest.renamed:2:{flag}") == -signal.SIGKILL
    assert reach(f"manifest.renamed:2:{flag}") == 0
    flag.touch()
    for misspelt in (f"manifest.renamd:1:{flag}", "manifest.renamed", f"manifest.renamed:x:{flag}"):
        assert reach(misspelt) == 1


def test_failpoints_and_settings_are_never_confused() -> None:
    assert not VARIABLE.upper().startswith("NIGHTSCHOOL_")
