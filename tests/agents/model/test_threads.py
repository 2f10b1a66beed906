"""The number of threads that a model is computed with."""

import os
from pathlib import Path

import pytest

from agents.model import threads
from agents.model.threads import SPINS, threads_for, wait_briefly
from corpus.recipe import MODEL_DIR


def test_the_configured_number_wins_and_small_or_unknown_models_get_one_thread(tmp_path: Path) -> None:
    assert threads_for(3, MODEL_DIR) == 3
    assert threads_for(0, MODEL_DIR) == threads_for(0, None) == 1


def test_a_large_model_gets_the_cores_that_this_process_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(threads.SMALL_BYTES + 1)
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(threads, "_QUOTA", quota)
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: set(range(40)), raising=False)
    assert threads_for(0, tmp_path) == threads.MOST
    quota.write_text("350000 100000\n")
    assert threads_for(0, tmp_path) == 3
    quota.write_text("max 100000\n")
    assert threads_for(0, tmp_path) == threads.MOST


def test_threads_wait_briefly_unless_the_user_says_how_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    wait_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == str(SPINS)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    wait_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    wait_briefly()
    assert "GOMP_SPINCOUNT" not in os.environ
