"""The real command line in processes of its own, on small homes whose nights take seconds."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import small
from small import Command, Service


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Run the command line's entry point in this process, for the many cases that start no other."""
    with small.in_process(monkeypatch, capsys) as call:
        yield call


@pytest.fixture(scope="module")
def start_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Service]]:
    """Start services; kill those that a test left running."""
    started: list[subprocess.Popen[bytes]] = []

    def start(home: Path, *arguments: object) -> Service:
        service = small.start_service(home, tmp_path_factory.mktemp("log") / "service.log", *arguments)
        started.append(service.process)
        return service

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def short_night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., dict[str, Any]]]:
    """Carry out an order on a home in a forked process; see `short_night.py`."""
    command = [sys.executable, str(Path(__file__).with_name("short_night.py"))]
    forking = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=small.environment()
    )
    model = tmp_path_factory.mktemp("model")

    def ask(**order: Any) -> dict[str, Any]:
        assert forking.stdin and forking.stdout
        forking.stdin.write(json.dumps({"model": str(model), **order}, default=str) + "\n")
        forking.stdin.flush()
        answer: dict[str, Any] = json.loads(forking.stdout.readline())
        return answer

    ask(model_files=model)
    yield ask
    assert forking.stdin and forking.stdout
    forking.stdin.close()
    forking.wait(10)
    forking.stdout.close()
