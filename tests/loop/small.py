"""Small homes whose nights take seconds, and the real command line and service on them as processes."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import anyio
import pytest

from corpus.world import answers
from corpus.world.requests import draw, reserved, write
from loop.operations.init import init

NIGHTSCHOOL = Path(sys.executable).with_name("nightschool")
LOOK_S = 0.02
"""Between two looks at something that has no other way of telling."""
SMALL = """\
[schedule]
windows = {windows}
settle_seconds = 0.2
[dreams]
per_night = 32
guards = 6
[pairs]
attempts = 4
minimum = 8
[verdict]
scenarios = 32
margin = 0.3
perplexity = 1.5
drift = 100.0
joint_drift = 100.0
[training]
lr = 5e-4
"""
"""Few dreams and few scenarios, so few that the gate is set wide: a night of some seconds that is kept."""
CORRECTIONS = {
    "decision": (
        "No, just do what I said, without alternatives.",
        "I have decided, I did not ask for ideas.",
    ),
    "question": ("Do not repeat my question, just the answer.", "I know what I asked, just answer."),
}
_ticks = threading.Event()


@dataclass(frozen=True, kw_only=True)
class CommandResult:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """Return the JSON object that is the whole of stdout."""
        assert self.out.count("\n") == 1 and self.out.endswith("\n"), self
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value

    def failed(self, code: int) -> str:
        """Return the message of a command that had to fail with --json, without a traceback."""
        result = self.result
        assert (self.code, result["exit_code"]) == (code, code), self
        assert "Traceback" not in self.err and set(result) == {"error", "exit_code"}
        return str(result["error"])


Command = Callable[..., CommandResult]
"""A function that runs one command with these arguments."""


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without our settings, and with warnings as errors."""
    plain = {name: value for name, value in os.environ.items() if not name.upper().startswith("NIGHTSCHOOL_")}
    return {**plain, "PYTHONWARNINGS": "error", **more}


@contextmanager
def in_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Run the command line's entry point in this process, for the many cases that start no other."""
    from loop.cli.app import main

    for name in [name for name in os.environ if name.upper().startswith("NIGHTSCHOOL_")]:
        monkeypatch.delenv(name)
    before, mask = signal.getsignal(signal.SIGTERM), os.umask(0o022)
    os.umask(mask)

    def call(*arguments: object) -> CommandResult:
        monkeypatch.setattr(sys, "argv", ["nightschool", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return CommandResult(code=left.value.code, out=out, err=err)

    yield call
    signal.signal(signal.SIGTERM, before)
    os.umask(mask)


def run_cli(home: Path, *arguments: object, **more: str) -> CommandResult:
    """Run one command on this home."""
    command = [str(NIGHTSCHOOL), "--home", str(home), *map(str, arguments)]
    ran = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        timeout=240,
    )
    return CommandResult(code=ran.returncode, out=ran.stdout, err=ran.stderr)


def cli_json(home: Path, *arguments: object) -> dict[str, Any]:
    """Run a command that has to succeed; return its JSON."""
    ran = run_cli(home, *arguments, "--json")
    assert ran.code == 0, ran
    return ran.result


def wait_until(condition: Callable[[], Any], what: str, seconds: float) -> Any:
    """Return the first true value of this condition, polled until the deadline."""
    deadline = monotonic() + seconds
    while not (value := condition()):
        assert monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        _ticks.wait(LOOK_S)
    return value


def correction_lines(kind: str, count: int, seed: int = 5) -> list[str]:
    """Return log lines in which users correct the base behaviour on this kind of request."""
    rng, lines = random.Random(seed), []
    for number in range(count):
        while reserved(request := draw(kind, rng)):
            pass
        turns = (
            ("user", write(request, rng)),
            ("assistant", answers.bad(request, rng)),
            ("user", CORRECTIONS[kind][number % len(CORRECTIONS[kind])]),
            ("assistant", answers.good(request, rng)),
        )
        messages = [{"role": role, "content": text} for role, text in turns]
        lines.append(json.dumps({"user": f"user {number % 4}", "messages": messages}))
    return lines


def fresh_home(place: Path) -> Path:
    """Make a home as `init` does, in this process."""
    mask = os.umask(0o077)  # as the command line's
    try:
        anyio.run(partial(init, place, demo=False))
    finally:
        os.umask(mask)
    return place


def small_home(place: Path, *, windows: str = "[]") -> Path:
    """Make a home whose nights are short."""
    fresh_home(place)
    (place / "config.toml").write_text(SMALL.format(windows=windows))
    return place


@dataclass(frozen=True, kw_only=True)
class Service:
    """A running service."""

    process: subprocess.Popen[bytes]
    home: Path
    log: Path

    def log_text(self) -> str:
        """Return its log so far."""
        return self.log.read_text()

    def ready(self) -> dict[str, str]:
        """Return the fields of its "ready" line."""
        line = wait_until(self._ready_line, "the service is ready", 300)
        return dict(word.split("=", 1) for word in line.split() if "=" in word)

    def _ready_line(self) -> str:
        assert self.process.poll() is None, self.log_text()
        return next((line for line in self.log_text().splitlines() if "] ready" in line), "")


def start_service(home: Path, log: Path, *arguments: object) -> Service:
    """Start a service of this home; the caller ends it."""
    command = [str(NIGHTSCHOOL), "--home", str(home), "run", *map(str, arguments)]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment()
        )
    return Service(process=process, home=home, log=log)
