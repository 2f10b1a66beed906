"""A home: created once, held by one process, with a token that only its user can read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from corpus.behaviour import SHIPPED, load
from corpus.errors import ConfigError, HomeLocked, NoHome
from store.files.private import LOCK
from store.home import Home, create, default_path, find, is_held, locate, locked, run_directory

HOLD = """
import sys
from pathlib import Path
from store.home import Home, locked
with locked(Home(Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return create(tmp_path / "home")


def holder(home: Home) -> "subprocess.Popen[str]":
    """Run another process that holds the home until its stdin is closed."""
    command = [sys.executable, "-c", HOLD, str(home.path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_the_token_is_long_and_readable_only_by_its_user_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        home = create(tmp_path / "home")
    finally:
        os.umask(before)
    assert home.token_file.stat().st_mode & 0o777 == 0o600
    assert home.path.stat().st_mode & 0o777 == 0o700
    assert len(home.token()) >= 40
    assert create(tmp_path / "another").token() != home.token()


def test_creating_a_home_twice_changes_nothing(home: Home) -> None:
    home.config_file.write_text("seed = 9\n")
    before = {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()}
    assert create(home.path) == home
    assert {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()} == before


def test_an_empty_folder_a_file_and_a_missing_path_are_not_homes(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for place in (tmp_path, file, tmp_path / "nowhere"):
        with pytest.raises(NoHome, match="run `nightschool init` first") as refusal:
            find(place)
        assert refusal.value.exit_code == 10 and str(place) in str(refusal.value)


def test_a_folder_without_the_token_is_not_a_home(home: Home) -> None:
    home.token_file.unlink()
    with pytest.raises(NoHome):
        find(home.path)


def test_the_option_comes_before_the_variable_and_the_variable_before_the_platforms_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NIGHTSCHOOL_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert locate(None).path == default_path() == tmp_path / "data" / "nightschool"
    monkeypatch.setenv("NIGHTSCHOOL_HOME", str(tmp_path / "variable"))
    assert locate(None).path == tmp_path / "variable"
    assert locate(tmp_path / "option").path == tmp_path / "option"
    monkeypatch.chdir(tmp_path)
    assert locate(Path("here")).path == tmp_path / "here"


def test_a_home_is_held_by_one_process_at_a_time(home: Home) -> None:
    assert not is_held(home)
    process = holder(home)
    try:
        assert is_held(home)
        with pytest.raises(HomeLocked, match="another Nightschool holds") as refusal, locked(home):
            pass
        assert refusal.value.exit_code == 11
    finally:
        process.communicate("")
    with locked(home):
        assert is_held(home)
    assert not is_held(home)


def test_the_lock_dies_with_a_killed_process(home: Home) -> None:
    process = holder(home)
    process.kill()
    process.communicate()
    assert not is_held(home)


def test_the_run_directory_is_private_and_is_swept_and_removed_at_the_end(home: Home) -> None:
    left = home.run_dir
    left.mkdir(mode=0o700)  # one that others may enter is not believed, and so not swept
    (left / "service.sock").write_text("left by a killed service")
    with run_directory(home) as directory:
        assert directory == left and [path.name for path in directory.iterdir()] == [LOCK]
        assert directory.stat().st_mode & 0o777 == 0o700
        (directory / "weights.bin").write_bytes(b"mapping")
    assert not left.exists()


def test_the_socket_path_is_short_enough_however_deep_the_home_is(tmp_path: Path) -> None:
    deep = Home(tmp_path.joinpath(*["a-rather-long-folder-name"] * 12))
    assert len(str(deep.control_socket)) < 107
    assert deep.run_dir != Home(tmp_path).run_dir


def test_two_names_of_one_home_have_one_run_directory(home: Home, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(home.path)
    assert Home(tmp_path / "link").run_dir == home.run_dir


def test_a_home_has_the_shipped_behaviours_and_its_own(home: Home) -> None:
    assert home.behaviours(shipped=True) == load([SHIPPED])
    assert home.behaviours(shipped=False) == {}
    text = (SHIPPED / "listen.toml").read_text()
    own = home.path / "behaviours" / "more.toml"
    own.write_text(text.replace('"listen"', '"heed"', 1).replace("push_back", "balk", 1))
    assert set(home.behaviours(shipped=True)) == {*load([SHIPPED]), "heed", "balk"}
    own.write_text(text)
    with pytest.raises(ConfigError, match="already a behaviour named listen"):
        home.behaviours(shipped=True)
    assert set(home.behaviours(shipped=False)) == {"listen", "push_back"}
