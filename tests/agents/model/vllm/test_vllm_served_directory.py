"""The directory of a vLLM's mapping: one living server, and nothing of dead ones."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agents.model.vllm.served_directory import ServedDirectory
from agents.model.weights.header import writer_lock
from corpus.errors import HomeLocked

SERVER = """
import sys
from pathlib import Path
from agents.model.vllm.served_directory import ServedDirectory
served = ServedDirectory(Path(sys.argv[1]))
served.acquire()
served.mapping.write_text("weights")
print("there", flush=True)
sys.stdin.read()
served.release()
"""

LOOKER = """
import sys
from pathlib import Path
from agents.model.vllm.served_directory import ServedDirectory
served = ServedDirectory(Path(sys.argv[1]))
print("there", flush=True)
while True:
    served.is_served()
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
def served(tmp_path: Path) -> ServedDirectory:
    return ServedDirectory(tmp_path / "served")


def test_a_server_that_ends_takes_everything_with_it(served: ServedDirectory) -> None:
    with server(served.directory) as process:
        assert served.is_served()
        process.communicate()
        assert process.returncode == 0
    assert not served.directory.exists() and not served.is_served()


def test_a_second_server_is_refused_and_leaves_the_first_one_alone(served: ServedDirectory) -> None:
    with server(served.directory):
        with pytest.raises(HomeLocked, match="another vLLM serves"):
            served.acquire()
        served.release()
        served.sweep()
        assert served.mapping.read_text() == "weights" and served.is_served()


def test_what_a_killed_server_left_is_swept_by_whoever_looks_and_by_the_next_server(
    served: ServedDirectory,
) -> None:
    for clean in (served.sweep, served.acquire):
        with server(served.directory) as process:
            process.kill()
        assert served.mapping.exists() and not served.is_served()
        clean()
        assert not served.mapping.exists()
    served.release()
    assert not served.directory.exists()
    served.sweep()


def test_who_only_looks_never_keeps_a_server_from_starting(served: ServedDirectory) -> None:
    served.directory.mkdir()
    (served.directory / "server.lock").touch()
    command = [sys.executable, "-c", LOOKER, str(served.directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        try:
            for _ in range(20):
                served.acquire()
                served.release()
        finally:
            process.kill()


def test_a_forked_child_does_not_keep_the_place_for_a_server_that_has_gone(served: ServedDirectory) -> None:
    ours, theirs = os.pipe()
    served.acquire()
    child = os.fork()
    if child == 0:
        os.close(theirs)
        os.read(ours, 1)  # until the test has ended
        os._exit(0)
    os.close(ours)
    assert served.is_served()
    served.release()
    assert not served.is_served()
    os.close(theirs)
    os.waitpid(child, 0)


def test_one_process_writes_a_mapping_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").touch()
    with writer_lock(tmp_path / "weights.bin", wait=False) as first:
        with writer_lock(tmp_path / "weights.bin", wait=False) as second:
            assert first and not second
    with writer_lock(tmp_path / "weights.bin", wait=True) as third:
        assert third
