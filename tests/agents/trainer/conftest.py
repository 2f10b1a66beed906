"""A tiny Qwen3 with random weights, its mapping, and trainer processes on it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_home import FIRST, Home

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a tiny Qwen3: 2 layers, hidden size 64, tied embeddings."""
    from transformers import Qwen3Config

    directory = tmp_path_factory.mktemp("model")
    Qwen3Config(
        architectures=["Qwen3ForCausalLM"],
        vocab_size=96,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=True,
    ).save_pretrained(directory)
    return directory


def random_model(model_directory: Path) -> Any:
    """The tiny model, always with the same random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(11)
    config = AutoConfig.from_pretrained(model_directory)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(torch.randn(parameter.shape) * 0.1)  # HF's own start is too flat to learn on
    return model


@pytest.fixture(scope="session")
def tiny(model_directory: Path) -> Any:
    """The tiny model; do not change its weights."""
    return random_model(model_directory)


@pytest.fixture(scope="session")
def make_home(tmp_path_factory: pytest.TempPathFactory, model_directory: Path) -> Callable[[], Path]:
    """Makes a home with a mapping of the tiny model, as the server would."""

    def make() -> Path:
        from agents.model.weights.shared import SharedWeights

        home = tmp_path_factory.mktemp("home")
        (home / "run").mkdir(mode=0o700)
        state = random_model(model_directory).state_dict()
        SharedWeights.create(home / "run" / "weights.bin", state, model=str(model_directory))
        return home

    return make


@pytest.fixture(scope="session")
def start(model_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Starts trainer processes; ends them after the tests."""
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


@pytest.fixture(scope="module")
def running(make_home: Callable[[], Path], start: Callable[..., Any]) -> Home:
    """A running trainer with a first checkpoint."""
    home = Home(make_home())
    home.log = start(home.path, "--threads", "1").log_file
    home.first = home.ask("checkpoint", None, FIRST).id
    return home


@pytest.fixture
def home(running: Home) -> Home:
    """The running trainer, back at the first checkpoint."""
    running.ask("rollback", running.first, settled=True)
    return running
