"""Trainer processes on the shared weights of a tiny model."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_home import FIRST, Home

from agents.model.weights import views
from agents.model.weights.shared import SharedWeights
from agents.model.weights.snapshot import raw_weights
from agents.trainer.update.training import TrainerContext
from store.checkpoints.store import CheckpointStore

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def start(model_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Start trainer processes; end them after the tests."""
    started: list[subprocess.Popen[str]] = []
    logs = tmp_path_factory.mktemp("logs")

    def begin(home: Path, *options: str, through: str | None = None) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "agents.trainer.process.main", "--run-dir", str(home / "run")]
        command += ["--checkpoints", str(home / "checkpoints"), "--model", str(model_directory), *options]
        if through is not None:
            command = [sys.executable, "-c", through, *command]
        log_file = logs / f"{len(started)}.log"
        with log_file.open("w") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONWARNINGS": "error"} if through is None else None,
            )
        started.append(child)
        child.log_file = log_file  # type: ignore[attr-defined]
        return child

    yield begin
    for child in started:
        child.kill()
        child.communicate()


@pytest.fixture(scope="session")
def running(make_home: Callable[[], Path], start: Callable[..., Any]) -> Home:
    """Start a trainer with a first checkpoint."""
    home = Home(make_home())
    home.log = start(home.path, "--threads", "1").log_file
    home.first = home.ask("checkpoint", None, FIRST).id
    return home


@pytest.fixture
def home(running: Home) -> Home:
    """Return the running trainer, rolled back to the first checkpoint."""
    running.ask("rollback", running.first, settled=True)
    return running


@pytest.fixture
def bench(make_home: Callable[[], Path], model_directory: Path) -> TrainerContext:
    """Return shared weights that hold their first checkpoint."""
    home = make_home()
    shared = SharedWeights.attach(home / "run" / "weights.bin")
    store = CheckpointStore(home / "checkpoints")
    shared.holds = store.write(raw_weights(shared), None, {}).id
    return TrainerContext(shared=shared, model=views.build(shared, model_directory), store=store)
