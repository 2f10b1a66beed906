"""The directory of a vLLM's mapping: one living server, and nothing of dead ones."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agents.model.vllm.place import Place
from agents.model.weights.header import writer_lock
from corpus.errors import HomeLocked

SERVER = """
import sys
from pathlib import Path
from agents.model.vllm.place import Place
place = Place(Path(sys.argv[1]))
place.take()
place.mapping.write_text("weights")
print("there", flush=True)
sys.stdin.read()
place.leave()
"""


@contextmanager
def server(directory: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that serves here until its stdin is closed."""
    command = [sys.executable, "-c", SERVER, str(directory)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "there\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "served")


def test_a_server_that_ends_takes_everything_with_it(place: Place) -> None:
    with server(place.directory) as process:
        assert place.is_served()
        process.communicate()
        assert process.returncode == 0
    assert not place.directory.exists() and not place.is_served()


def test_a_second_server_is_refused_and_leaves_the_first_one_alone(place: Place) -> None:
    with server(place.directory):
        with pytest.raises(HomeLocked, match="another vLLM serves"):
            place.take()
        place.leave()
        place.sweep()
        assert place.mapping.read_text() == "weights" and place.is_served()


def test_what_a_killed_server_left_is_swept_by_whoever_looks_and_by_the_next_server(place: Place) -> None:
    for clean in (place.sweep, place.take):
        with server(place.directory) as process:
            process.kill()
        assert place.mapping.exists() and not place.is_served()
        clean()
        assert not place.mapping.exists()
    place.leave()
    assert not place.directory.exists()
    place.sweep()


def test_who_only_looks_never_keeps_a_server_from_starting(place: Place) -> None:
    place.directory.mkdir()
    (place.directory / "server.lock").touch()
    looks = "import sys\nfrom pathlib import Path\nfrom agents.model.vllm.place import Place\n"
    looks += "p = Place(Path(sys.argv[1]))\nprint('there', flush=True)\nwhile True: p.is_served()"
    command = [sys.executable, "-c", looks, str(place.directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        try:
            for _ in range(20):
                place.take()
                place.leave()
        finally:
            process.kill()


def test_a_forked_child_does_not_keep_the_place_for_a_server_that_has_gone(place: Place) -> None:
    ours, theirs = os.pipe()
    place.take()
    child = os.fork()
    if child == 0:
        os.close(theirs)
        os.read(ours, 1)  # until the test has ended
        os._exit(0)
    os.close(ours)
    assert place.is_served()
    place.leave()
    assert not place.is_served()
    os.close(theirs)
    os.waitpid(child, 0)


def test_one_process_writes_a_mapping_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").touch()
    with writer_lock(tmp_path / "weights.bin", wait=False) as first:
        with writer_lock(tmp_path / "weights.bin", wait=False) as second:
            assert first and not second
    with writer_lock(tmp_path / "weights.bin", wait=True) as third:
        assert third
