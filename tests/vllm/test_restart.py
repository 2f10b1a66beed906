"""A vLLM that was killed or stopped, and an update that nobody finishes: the weights and files afterwards."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL
from time import monotonic, sleep
from typing import Any

import psutil
import pytest
import torch
from conftest import Vllm, free_port, new_home, point_at, serving

from agents.model.vllm.served_directory import ServedDirectory
from agents.model.weights.header import writer_lock
from agents.model.weights.shared import SharedWeights
from agents.model.weights.snapshot import raw_weights
from store import queries
from store.checkpoints.store import CheckpointStore
from store.home import Home, locked
from store.ledger.db import Ledger, database_url, now
from store.ledger.records import Checkpoint, save
from store.nights import history

ASKED = {"prompt": [9, 8, 7, 6], "max_tokens": 6, "temperature": 0, "logprobs": 0, "ignore_eos": True}
PUT_BACK_S = 20.0
"""Longest wait for the watchdog, which checks once a second."""
LOOKS_S = 3.0
"""Long enough for a check."""


def logprobs(vllm: Vllm) -> Any:
    with vllm.http() as http:
        return http.post("/v1/completions", json=ASKED).json()["choices"][0]["logprobs"]["token_logprobs"]


def mapping_of(home: Home) -> SharedWeights:
    return SharedWeights.attach(ServedDirectory(home.served_dir).weights_file)


def disturb(shared: SharedWeights) -> None:
    """Leave an unfinished update, as a killed trainer does."""
    shared.dirty, shared.holds = True, ""
    generator = torch.Generator().manual_seed(3)
    for tensor in list(shared.tensors.values())[::3]:
        tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.05)
    shared.bump()


def keep(home: Home, shared: SharedWeights) -> str:
    """Make the shared weights the active checkpoint, as a service would; return its id."""
    store, ledger = CheckpointStore(home.checkpoints), Ledger(database_url(home.path))
    with ledger.reading() as connection:
        parent = queries.active(connection).id
    written = store.write(raw_weights(shared), None, {"parent": parent})
    row = Checkpoint(
        id=written.id,
        parent_id=parent,
        number=1,
        weights_sha256=written.weights_sha256,
        update_id=None,
        state="kept",
        at=now(),
    )
    with ledger.writing() as connection:
        save(connection, [row])
        history.point(connection, written.id, "kept by a test")
    ledger.close()
    shared.holds, shared.dirty = written.id, False
    return written.id


def until(true: Callable[[], bool], what: str) -> None:
    began = monotonic()
    while not true():
        assert monotonic() - began < PUT_BACK_S, what
        sleep(0.1)


def test_a_killed_vllm_serves_the_last_kept_checkpoint_and_leaves_nothing_when_it_is_stopped(
    tmp_path: Path,
) -> None:
    home, log = new_home(tmp_path / "home"), tmp_path / "vllm.log"
    point_at(home, f"http://127.0.0.1:{free_port()}")
    with serving(home, log) as first:
        shared, base = mapping_of(home), logprobs(first)
        with Ledger(database_url(home.path)).reading() as connection:
            assert (shared.holds, shared.dirty) == (queries.active(connection).id, False)
        with locked(home):
            disturb(shared)
            kept = keep(home, shared)
        served = logprobs(first)
        assert served != base
        first.stop(SIGKILL)
    assert (
        home.served_dir.is_dir() and not ServedDirectory(home.served_dir).is_served()
    )  # nobody was left to sweep
    with serving(home, log) as second:
        assert logprobs(second) == served
        _is_put_back(second, kept, served)
        _is_left_to_a_service_that_lives(second, kept, served)
        second.stop()
        assert not home.served_dir.exists(), second.said()[-3000:]


def _is_put_back(vllm: Vllm, kept: str, served: Any) -> None:
    """An unfinished update, with neither service nor trainer: the watchdog undoes it."""
    shared = mapping_of(vllm.home)
    assert (shared.holds, shared.dirty, shared.replaced) == (kept, False, False)
    with writer_lock(shared.path, wait=True):  # the trainer, before it dies
        disturb(shared)
        version = shared.version
        assert logprobs(vllm) != served
    until(lambda: not shared.dirty, f"nobody put it back: {vllm.said()[-2000:]}")
    assert shared.holds == kept and shared.version > version
    assert logprobs(vllm) == served
    assert "left unfinished" in vllm.said()


def _is_left_to_a_service_that_lives(vllm: Vllm, kept: str, served: Any) -> None:
    shared = mapping_of(vllm.home)
    with locked(vllm.home):
        disturb(shared)
        began, version = monotonic(), shared.version
        while monotonic() - began < LOOKS_S:
            assert shared.dirty and shared.version == version
            sleep(0.1)
    until(lambda: not shared.dirty, "nobody put it back when the service had gone")
    assert logprobs(vllm) == served


def interrupt(vllm: Vllm) -> None:
    """Ctrl-C."""
    os.killpg(vllm.process.pid, signal.SIGINT)


def kill_the_worker(vllm: Vllm) -> None:
    """The process that holds the weights is killed; vLLM then ends."""
    processes = psutil.Process(vllm.process.pid).children(recursive=True)
    (worker,) = [one for one in processes if any("server.lock" in file.path for file in one.open_files())]
    worker.kill()


@pytest.mark.parametrize("end", [interrupt, kill_the_worker])
def test_a_vllm_that_ends_leaves_nothing_behind(tmp_path: Path, end: Callable[[Vllm], None]) -> None:
    home = new_home(tmp_path / "home")
    point_at(home, f"http://127.0.0.1:{free_port()}")
    with serving(home, tmp_path / "vllm.log") as vllm:
        assert ServedDirectory(home.served_dir).is_served()
        end(vllm)
        vllm.gone()
        assert not home.served_dir.exists(), vllm.said()[-3000:]
