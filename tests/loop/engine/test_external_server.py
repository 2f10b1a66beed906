"""The service beside a server that starts and stops at any time: a stand-in for the real vLLM."""

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Command
from small import SMALL, Service, cli_json, correction_lines, environment, run_cli, wait_until

from agents.model.vllm.served_directory import ServedDirectory
from agents.model.weights.header import Header
from loop.operations.status import status
from store.home import Home

STANDIN = Path(__file__).parents[1] / "standin.py"
START_S, NIGHT_S = 150.0, 300.0


@dataclass(kw_only=True)
class ServerSetup:
    """A home, and the address at which a server may serve its model."""

    home: Home
    port: int
    servers: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def place(self) -> ServedDirectory:
        return ServedDirectory(self.home.served_dir)

    def serve(self, how: str = "shares") -> None:
        """Start the server, and wait until it answers."""
        command = [sys.executable, str(STANDIN), str(self.home.path), str(self.port), how]
        self.servers.append(subprocess.Popen(command, env=environment()))
        wait_until(self.answers, "the server answers", START_S)

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", trust_env=False).is_success
        except httpx.TransportError:
            return False

    def end(self, number: int = signal.SIGTERM) -> None:
        """End the server."""
        server = self.servers.pop()
        server.send_signal(number)
        server.wait(30)

    def configure(self, more: str = "enabled = true\n") -> None:
        text = SMALL.format(windows="[]").replace("[training]\n", f"[training]\n{more}")
        self.home.config_file.write_text(f'{text}\n[model]\nurl = "{self.url}"\n')

    def reason(self) -> str:
        """Return the service's reason why no night begins."""
        return status(self.home.path).next_update_reason or ""

    def held(self) -> tuple[str, bool]:
        """Return the served checkpoint, and whether it may be in mid-update."""
        words = Header(self.place.weights_file).state
        return words.holds, words.dirty


@pytest.fixture(scope="module")
def server_setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerSetup]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
    home = Home(tmp_path_factory.mktemp("server_setup") / "home")
    assert run_cli(home.path, "init").code == 0
    server_setup = ServerSetup(home=home, port=port)
    server_setup.configure()
    log = home.path.with_name("log.jsonl")
    log.write_text("".join(f"{line}\n" for line in correction_lines("decision", 8)))
    cli_json(home.path, "ingest", log)
    yield server_setup
    while server_setup.servers:
        server_setup.end(signal.SIGKILL)
    server_setup.place.sweep()


@pytest.fixture
def alone(server_setup: ServerSetup) -> Iterator[ServerSetup]:
    """Make sure that no server runs before and after the test."""
    while server_setup.servers:
        server_setup.end()
    yield server_setup
    while server_setup.servers:
        server_setup.end()


def checks_of(command: Command, home: Path) -> dict[str, Any]:
    """The checks of `doctor`, by name."""
    report = command("--home", home, "doctor", "--json").result
    return {check["check"]: check for check in report["checks"]}


def test_a_command_says_within_seconds_how_to_start_an_absent_server(
    alone: ServerSetup, command: Command
) -> None:
    for arguments in (("ask", "Hello?"), ("night",), ("behaviours", "measure")):
        message = command("--home", alone.home.path, *arguments, "--json").failed(1)
        assert f"vLLM at {alone.url} does not answer: start it" in message
    checks = checks_of(command, alone.home.path)
    assert not checks["vllm"]["ok"] and "start it there" in checks["vllm"]["found"]
    assert checks["training"] == {"check": "training", "ok": True, "found": "on"}


@pytest.mark.parametrize(
    "how, code, message", [("alone", 1, "runs without the plugin"), ("refuses", 13, "the model is quantized")]
)
def test_a_server_that_does_not_share_its_weights_is_named_with_the_reason(
    alone: ServerSetup, command: Command, how: str, code: int, message: str
) -> None:
    alone.serve(how)
    assert message in command("--home", alone.home.path, "ask", "Hello?", "--json").failed(code)
    checks = checks_of(command, alone.home.path)
    assert checks["vllm"]["ok"]
    assert not checks["plugin"]["ok"] and message in checks["plugin"]["found"]


def test_a_server_of_another_model_is_refused(alone: ServerSetup, command: Command) -> None:
    alone.serve()
    manifest = alone.place.weights_file.with_suffix(".json")
    other = alone.home.path.with_name("other")
    other.mkdir()
    (other / "config.json").write_text("{}")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"model": str(other)}))
    message = command("--home", alone.home.path, "ask", "Hello?", "--json").failed(2)
    assert "was initialised with another model" in message


def test_init_uses_the_served_model(alone: ServerSetup, tmp_path: Path) -> None:
    place = tmp_path / "new"
    message = run_cli(place, "init", "--url", alone.url, "--json").failed(1)
    assert f"Start vLLM at {alone.url}" in message and "--model DIR" in message
    alone.serve()
    created = cli_json(place, "init", "--url", alone.url)
    assert cli_json(place, "init", "--url", alone.url) == created
    assert created["checkpoint"] == cli_json(alone.home.path, "status")["checkpoint"]
    assert "set model.url" in run_cli(place, "init", "--url", "http://127.0.0.1:1", "--json").failed(2)
    effective = cli_json(place, "config")
    assert (effective["model"]["url"], effective["training"]["enabled"]) == (alone.url, False)


@pytest.mark.slow
def test_the_service_runs_before_the_server_starts_and_after_it_stops(
    alone: ServerSetup, start_service: Callable[..., Service]
) -> None:
    service = start_service(alone.home.path)
    service.ready()
    wait_until(lambda: f"waiting for vLLM at {alone.url}" in alone.reason(), "it waits", START_S)
    assert "start it" in run_cli(alone.home.path, "ask", "Hello?", "--json").failed(1)
    alone.serve()
    wait_until(lambda: "waiting" not in alone.reason(), "it has found the server", START_S)
    assert cli_json(alone.home.path, "ask", "Hello?")["answer"]
    alone.end(signal.SIGKILL)
    wait_until(
        lambda: "has gone" in alone.reason() or "does not answer" in alone.reason(), "it waits", START_S
    )
    wait_until(lambda: not alone.place.directory.exists(), "what the dead server left is swept", START_S)
    alone.serve()
    wait_until(lambda: "waiting" not in alone.reason(), "it has found the new server", START_S)
    assert cli_json(alone.home.path, "ask", "Hello?")["answer"]
    service.process.terminate()
    assert service.process.wait(10) == 0
    assert alone.place.is_served()


@pytest.mark.slow  # tests/vllm kills the real vLLM in mid-update
def test_a_night_whose_server_was_killed_mid_update_ends_without_a_counted_failure(
    alone: ServerSetup, start_service: Callable[..., Service]
) -> None:
    alone.serve()
    service = start_service(alone.home.path)
    service.ready()
    before = cli_json(alone.home.path, "status")["checkpoint"]
    nights: list[dict[str, Any]] = []
    runner = threading.Thread(target=lambda: nights.append(cli_json(alone.home.path, "night")))
    runner.start()
    wait_until(lambda: alone.held() == ("", True), "an update is trained", NIGHT_S)
    alone.end(signal.SIGKILL)
    alone.serve()
    runner.join(NIGHT_S)
    (night,) = nights
    assert [update["verdict"] for update in night["updates"]] == ["keep"]
    assert cli_json(alone.home.path, "status")["set_aside"]["work"] == []
    checkpoint_id = night["updates"][0]["checkpoint"]
    assert alone.held() == (checkpoint_id, False)
    events = cli_json(alone.home.path, "ledger", "events", "--limit", 500)["events"]
    assert [event for event in events if event["kind"] == "failure"] == []
    # With the service up, and with the service down: the server serves what the ledger says, at once.
    assert cli_json(alone.home.path, "rollback")["to"] == before
    assert alone.held() == (before, False)
    service.process.terminate()
    assert service.process.wait(10) == 0
    cli_json(alone.home.path, "rollback", checkpoint_id)
    assert alone.held() == (checkpoint_id, False)
    alone.end()
    assert cli_json(alone.home.path, "rollback", before)["to"] == before
