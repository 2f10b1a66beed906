"""The directory of a vLLM's shared weights: one living server, and no files of dead ones."""

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
served.weights_file.write_text("weights")
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
    """Run another process that serves here until its stdin is closed."""
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


def test_a_server_that_ends_removes_everything(served: ServedDirectory) -> None:
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
        assert served.weights_file.read_text() == "weights" and served.is_served()


def test_the_files_of_a_killed_server_are_removed_by_a_sweep_and_by_the_next_server(
    served: ServedDirectory,
) -> None:
    for clean in (served.sweep, served.acquire):
        with server(served.directory) as process:
            process.kill()
        assert served.weights_file.exists() and not served.is_served()
        clean()
        assert not served.weights_file.exists()
    served.release()
    assert not served.directory.exists()
    served.sweep()


def test_a_check_for_a_server_never_keeps_one_from_starting(served: ServedDirectory) -> None:
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


def test_a_forked_child_does_not_hold_the_lock_of_a_server_that_has_ended(served: ServedDirectory) -> None:
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


def test_one_process_writes_shared_weights_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").touch()
    with writer_lock(tmp_path / "weights.bin", wait=False) as first:
        with writer_lock(tmp_path / "weights.bin", wait=False) as second:
            assert first and not second
    with writer_lock(tmp_path / "weights.bin", wait=True) as third:
        assert third
