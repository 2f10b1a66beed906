"""The shipped model, served by a real process, and a tiny model with random weights."""

import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from agents.model.client import ModelClient, open_client
from corpus.recipe import MODEL_DIR

TOKEN = "a-token-that-is-long-enough-to-pass"
Served = Callable[[Callable[[ModelClient], Awaitable[Any]]], Any]
"""Runs something with a client of the served model."""


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve the shipped model; the fixture calls a coroutine function with its client."""
    run_dir = tmp_path_factory.mktemp("s")
    (run_dir / "token").write_text(TOKEN)
    ours, theirs = os.pipe()
    command = [sys.executable, "-W", "error", "-m", "agents.model.embedded.server", "--run-dir", str(run_dir)]
    command += ["--model", str(MODEL_DIR), "--token-file", str(run_dir / "token")]
    command += ["--ready-fd", str(theirs), "--parent-pid", str(os.getpid())]
    with (run_dir / "err").open("wb") as err:
        process = subprocess.Popen(command, pass_fds=[theirs], stdout=subprocess.DEVNULL, stderr=err)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        assert pipe.read() == b"ready\n", (run_dir / "err").read_text()

    def served(use: Callable[[ModelClient], Awaitable[Any]]) -> Any:
        async def with_client() -> Any:
            async with open_client(token=TOKEN, socket=Path(run_dir / "model.sock")) as client:
                return await use(client)

        return anyio.run(with_client)

    yield served
    process.send_signal(signal.SIGTERM)
    process.wait(10)


async def no_report(done: int, total: int) -> None:
    """Ignore progress."""


@pytest.fixture
def quiet() -> Callable[[int, int], Awaitable[None]]:
    return no_report


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the configuration of a tiny Qwen3: 2 layers, hidden size 64, tied embeddings."""
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
    """Return the tiny model, always with the same random weights."""
    import torch
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
    """Return the tiny model, which tests must not change."""
    return random_model(model_directory)


@pytest.fixture(scope="session")
def make_home(tmp_path_factory: pytest.TempPathFactory, model_directory: Path) -> Callable[[], Path]:
    """Return a function that makes a home with shared weights of the tiny model, as the server does."""

    def make() -> Path:
        from agents.model.weights.shared import SharedWeights

        home = tmp_path_factory.mktemp("home")
        (home / "run").mkdir(mode=0o700)
        state = random_model(model_directory).state_dict()
        SharedWeights.create(home / "run" / "weights.bin", state, model=str(model_directory))
        return home

    return make
