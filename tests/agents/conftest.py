"""The shipped model, served by a real process, for the agents that ask it."""

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
    """The shipped model, served; call it with a coroutine function that takes the client."""
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


async def nobody_listens(done: int, total: int) -> None:
    """A report of progress that goes nowhere."""


@pytest.fixture
def quiet() -> Callable[[int, int], Awaitable[None]]:
    return nobody_listens
