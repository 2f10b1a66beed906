"""kill -9 within an update: the trainer, the service and vLLM in one night, which ends as any other."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Vllm, free_port, serving
from homes import SEATS, Asking, held, vllm_home
from small import Service, cli_json, start_service, wait_until

NIGHT_S, RESTORED_S, RESUMED_S = 400.0, 200.0, 200.0
MID_UPDATE = ("", True)


def trainer_of(service: Service) -> int:
    """Return the process id of the service's trainer."""
    pid = service.process.pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if b"agents.trainer.process.main" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    raise AssertionError("the service has no trainer")


class Ordeal:
    """The observations of one night."""

    def __init__(self, place: Path) -> None:
        port = free_port()
        home = vllm_home(place / "home", f"http://127.0.0.1:{port}", trains=True, windows='["00:00-24:00"]')
        self.base: str = cli_json(home.path, "status")["checkpoint"]
        self.path, log = home.path, place / "vllm.log"
        with serving(home, log, port=port, arguments=SEATS) as vllm, Asking(vllm) as users:
            service = start_service(home.path, place / "first.log")
            self._kill_trainer(service, vllm)
            self._kill_service(service, vllm)
            self.users = list(users.answers)
            service = start_service(home.path, place / "second.log")
            wait_until(lambda: held(vllm) == MID_UPDATE, "the update is made again", NIGHT_S)
            vllm.stop(signal.SIGKILL)
        wait_until(lambda: not home.served_dir.exists(), "what vLLM left is swept", RESTORED_S)
        self.waits = str(cli_json(home.path, "status")["next_update_reason"])
        with serving(home, log, port=port, arguments=SEATS) as vllm:
            self.status = wait_until(self._ended, "the night ends", NIGHT_S)
            self.end = held(vllm)
        service.process.send_signal(signal.SIGTERM)
        self.code = service.process.wait(30)
        self.left = home.served_dir.exists()
        self.work = cli_json(home.path, "ledger", "events", "--limit", 1000)["events"]

    def _kill_trainer(self, service: Service, vllm: Vllm) -> None:
        """Kill the trainer: the service has the next one undo the update and make it again."""
        wait_until(lambda: held(vllm) == MID_UPDATE, "an update is trained", NIGHT_S)
        first = trainer_of(service)
        os.kill(first, signal.SIGKILL)
        self.undone = wait_until(lambda: held(vllm)[0] == self.base, "the parent is back", RESTORED_S)
        wait_until(lambda: held(vllm) == MID_UPDATE, "the update is made again", NIGHT_S)

    def _kill_service(self, service: Service, vllm: Vllm) -> None:
        """Kill the service and with it its trainer: vLLM alone is left, and restores the parent by itself."""
        os.kill(service.process.pid, signal.SIGKILL)
        service.process.wait()
        self.restored = wait_until(
            lambda: held(vllm) == (self.base, False), "vLLM has restored it", RESTORED_S
        )

    def _ended(self) -> dict[str, Any] | None:
        told = cli_json(self.path, "status")
        return told if told["last_night"] and told["last_night"]["state"] == "done" else None


@pytest.fixture(scope="module")
def ordeal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ordeal]:
    yield Ordeal(tmp_path_factory.mktemp("killed"))


def test_the_night_ends_and_its_update_is_kept_once(ordeal: Ordeal) -> None:
    last = ordeal.status["last_update"]
    assert (last["verdict"], ordeal.status["checkpoint"]) == ("keep", last["checkpoint"])
    assert ordeal.end == (last["checkpoint"], False)
    assert ordeal.status["set_aside"]["work"] == []


def test_users_are_served_while_the_trainer_and_the_service_are_killed(ordeal: Ordeal) -> None:
    assert set(ordeal.users) == {200} and len(ordeal.users) > 10


def test_the_work_waits_for_a_killed_vllm_and_does_not_count_it_as_a_failure(ordeal: Ordeal) -> None:
    assert "waiting for vLLM at" in ordeal.waits
    failed = [event["subject"] for event in ordeal.work if event["kind"] == "failure"]
    assert failed == ["train"]  # when the trainer was killed
    assert (ordeal.code, ordeal.left) == (0, False)
