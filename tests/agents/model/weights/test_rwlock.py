"""The lock of the weights: passes run at once, a change runs alone, and nothing waits for ever."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from time import monotonic

import pytest
import torch

from agents.model.weights import rwlock
from agents.model.weights.rwlock import PATIENCE_S, RWLock
from agents.model.weights.shared import SharedWeights
from agents.model.weights.snapshot import raw_weights, restore
from store.checkpoints.store import CheckpointStore

HOLDER = """
import sys
from pathlib import Path
from agents.model.weights.rwlock import RWLock
with getattr(RWLock(Path(sys.argv[1])), sys.argv[2])():
    print("mine", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def shared(tmp_path: Path) -> SharedWeights:
    return SharedWeights.create(
        tmp_path / "weights.bin", {"a": torch.zeros(8), "b": torch.zeros(8)}, model="m"
    )


def is_gated(path: Path) -> bool:
    """Return whether the gate is locked: a writer changes the weights, or waits to."""
    with path.open("r+b") as stream:
        try:
            rwlock.fcntl.fcntl(stream, rwlock.fcntl.F_OFD_SETLK, rwlock._SHARED[rwlock._GATE])
        except BlockingIOError:
            return True
        return False


def until_gated(path: Path) -> None:
    deadline = monotonic() + PATIENCE_S / 2
    while not is_gated(path):
        assert monotonic() < deadline, "no writer waits"


def inside(lock: Callable[[], AbstractContextManager[None]]) -> tuple[threading.Thread, list[str]]:
    """Start a thread that takes this lock; return it with the events that it records inside."""
    notes: list[str] = []

    def take() -> None:
        with lock():
            notes.append("there")

    thread = threading.Thread(target=take)
    thread.start()
    return thread, notes


def test_passes_run_at_once(shared: SharedWeights) -> None:
    with shared.lock.read_lock():
        other, notes = inside(shared.lock.read_lock)
        other.join(PATIENCE_S / 2)
        assert notes == ["there"]


def test_a_change_waits_for_the_running_pass_and_the_next_pass_for_the_change(shared: SharedWeights) -> None:
    path = shared.path
    with shared.lock.read_lock():
        change, changed = inside(RWLock(path).write_lock)
        until_gated(path)
        # If later passes did not wait, overlapping passes would keep the change waiting for ever.
        later, passed = inside(shared.lock.read_lock)
        assert (changed, passed) == ([], [])
    change.join()
    later.join()
    assert (changed, passed) == (["there"], ["there"]) and not is_gated(path)


def test_a_restore_changes_weights_and_version_under_the_lock(shared: SharedWeights, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    checkpoint_id = store.write(raw_weights(shared), None, {}).id
    shared.tensors["a"].fill_(3.0)
    version = shared.version
    with RWLock(shared.path).read_lock():
        restoring = threading.Thread(
            target=restore, args=(shared, store, checkpoint_id), kwargs={"clean": True}
        )
        restoring.start()
        until_gated(shared.path)
        assert shared.version == version and torch.all(shared.tensors["a"] == 3.0)
    restoring.join()
    assert (
        shared.version == version + 1
        and shared.holds == checkpoint_id
        and torch.all(shared.tensors["a"] == 0.0)
    )


@pytest.mark.parametrize("held", ["read_lock", "write_lock"])
def test_a_dead_process_releases_the_lock_and_a_stopped_one_is_not_waited_for_long(
    shared: SharedWeights, held: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rwlock, "PATIENCE_S", 0.1)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(shared.path), held], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"mine\n"
    os.kill(holder.pid, signal.SIGSTOP)
    began = monotonic()
    with shared.lock.write_lock():
        assert monotonic() - began >= 0.1
    if held == "write_lock":
        with shared.lock.read_lock():
            assert monotonic() - began >= 0.2
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    began = monotonic()
    monkeypatch.setattr(rwlock, "PATIENCE_S", 30.0)
    with shared.lock.write_lock():
        assert monotonic() - began < 5


def test_a_thread_that_has_ended_leaves_no_open_file(shared: SharedWeights) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        inside(shared.lock.read_lock)[0].join()
    assert len(os.listdir("/proc/self/fd")) == before
