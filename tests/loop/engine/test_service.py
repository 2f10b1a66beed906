"""The service as users see it: a log grows, the model learns, and every request is answered meanwhile."""

import json
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest
from small import Service, cli_json, correction_lines, run_cli, small_home, wait_until

from store.home import Home

QUESTION = {"messages": [{"role": "user", "content": "I have decided to paint the door."}], "max_tokens": 24}
STOP_S = 5.0
"""What is promised for a clean stop."""
NIGHT_S = 180.0


class User(threading.Thread):
    """A user who asks one question after the other until stopped."""

    def __init__(self, url: str, token: str) -> None:
        super().__init__(daemon=True)
        self.answers: list[tuple[int, str]] = []
        self.stop = threading.Event()
        self._url, self._headers = f"{url}/chat/completions", {"Authorization": f"Bearer {token}"}

    def run(self) -> None:
        with httpx.Client(headers=self._headers, timeout=60, trust_env=False) as http:
            while not self.stop.is_set():
                try:
                    answer = http.post(self._url, json=QUESTION)
                    self.answers.append((answer.status_code, answer.text))
                except httpx.HTTPError as error:
                    self.answers.append((0, repr(error)))
                self.stop.wait(0.05)


class Day:
    """A service that followed a folder and learnt from a file that grew in it, under constant requests."""

    def __init__(self, service: Service, watched: Path) -> None:
        self.service, self.watched = service, watched
        self.ready = service.ready()
        self.token = Home(service.home).token()
        self.before = self.status()
        user = User(self.ready["url"], self.token)
        user.start()
        with (watched / "today.jsonl").open("a") as log:
            log.write(correction_lines("decision", 1)[0] + "\n")
        self.learnt = wait_until(self._learnt, "an update from the log", NIGHT_S)
        user.stop.set()
        user.join(60)
        self.answers = user.answers

    def _learnt(self) -> dict[str, Any] | None:
        status = self.status()
        return status if status["last_night"] and status["last_night"]["state"] == "done" else None

    def status(self) -> dict[str, Any]:
        """Return the status of the home, requested over the TCP port."""
        with self.http(Authorization=f"Bearer {self.token}") as http:
            status: dict[str, Any] = http.get(f"{self.own}/status").json()
            return status

    @property
    def own(self) -> str:
        """Return the service's own address."""
        return self.ready["url"].removesuffix("/v1")

    def http(self, **headers: str) -> httpx.Client:
        """Return a client of the service's TCP port with these headers."""
        return httpx.Client(base_url=self.ready["url"], headers=headers, timeout=60, trust_env=False)


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory, start_service: Callable[..., Service]) -> Iterator[Day]:
    folder = tmp_path_factory.mktemp("day")
    watched = folder / "logs"
    watched.mkdir()
    (watched / "today.jsonl").write_text('{"messages": [{"role": "user", "content": "Good morning."}]}\n')
    home = small_home(folder / "home", windows='["00:00-24:00"]')
    yield Day(start_service(home, "--watch", watched), watched)


# ---------------------------------------------------------------- it learns


def test_a_conversation_appended_to_a_watched_file_leads_to_a_kept_update_with_no_command_given(
    day: Day,
) -> None:
    assert day.before["last_update"] is None and day.before["last_night"] is None
    update = day.learnt["last_update"]
    assert (update["verdict"], update["steps"] > 0) == ("keep", True), update
    assert day.learnt["checkpoint"] == update["checkpoint"] != day.before["checkpoint"]
    assert day.learnt["weights_sha256"] != day.before["weights_sha256"]
    assert day.learnt["set_aside"] == {"lines": 0, "work": []}


def test_the_update_is_traced_to_the_appended_line(day: Day) -> None:
    why = cli_json(day.service.home, "ledger", "why", day.learnt["last_update"]["id"])
    assert {(line["path"], line["line"]) for line in why["log_lines"]} == {
        (str(day.watched / "today.jsonl"), 2)
    }


def test_every_request_of_the_user_was_answered(day: Day) -> None:
    assert len(day.answers) > 50
    assert {status for status, _ in day.answers} == {200}, [
        answer for answer in day.answers if answer[0] != 200
    ][:3]
    texts = [json.loads(text)["choices"][0]["message"]["content"] for _, text in day.answers]
    assert all(texts)


def test_an_answer_names_its_weights_and_requests_are_answered_while_these_change(day: Day) -> None:
    versions = [json.loads(text)["weights_version"] for _, text in day.answers]
    assert versions == sorted(versions) and len(set(versions)) > 2


def test_no_night_begins_while_no_new_turn_arrives(day: Day) -> None:
    status = cli_json(day.service.home, "status")
    assert status.pop("service") == "up" and status == day.status()
    assert status["next_update_reason"] == "0 new lessons, 1 needed"
    assert status["last_night"]["id"] == "n1" and status["queue"] == {}


# ---------------------------------------------------------------- its door


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:80", "Origin": "http://evil.example"}, 403),
        ({"Host": "127.0.0.1:1"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer wrong-but-long-enough-to-pass"}, 401),
        ({"Authorization": "Basic {token}"}, 401),
        ({"Authorization": "Bearer {token}x"}, 401),
        ({}, 200),
        ({"Origin": "{own}"}, 200),
    ],
)
def test_only_a_local_caller_with_the_token_is_admitted(
    day: Day, headers: dict[str, str], status: int
) -> None:
    given = {name: value.format(token=day.token, own=day.own) for name, value in headers.items()}
    with day.http(**{"Authorization": f"Bearer {day.token}", **given}) as http:
        for method, path in (("POST", "chat/completions"), ("GET", "models"), ("GET", f"{day.own}/status")):
            assert (
                http.request(method, path, json=QUESTION if method == "POST" else None).status_code == status
            )
        assert http.post(f"{day.own}/do/pause").status_code == status
        assert day.status()["next_update_reason"].startswith("paused") == (status == 200)
        assert http.post(f"{day.own}/do/resume").status_code == status
    assert not day.status()["next_update_reason"].startswith("paused")


def test_requests_of_another_site_are_refused_including_their_preflight(day: Day) -> None:
    with day.http(Origin="http://evil.example") as http:
        answer = http.request(
            "OPTIONS", f"{day.own}/do/night", headers={"Access-Control-Request-Method": "POST"}
        )
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_an_unknown_operation_is_refused_with_a_message(day: Day) -> None:
    wrong = (("no_such", b"{}"), ("__init__", b"{}"), ("_whole", b"{}"), ("night", b"[1]"), ("ask", b"{"))
    with day.http(Authorization=f"Bearer {day.token}") as http:
        for path, body in wrong:
            answer = http.post(f"{day.own}/do/{path}", content=body)
            assert answer.status_code == 400 and "night" in answer.json()["error"]["message"]
        surplus = http.post(f"{day.own}/do/ask", json={"text": "Good morning.", "surplus": 1})
        assert surplus.json()["error"]["exit_code"] == 2
        assert http.get(f"{day.own}/etc/passwd").status_code == 404


def test_the_service_listens_only_on_this_machine(day: Day) -> None:
    port = int(day.own.rpartition(":")[2])
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            if state == "0A" and int(address.split(":")[1], 16) == port:
                listening.append(address.split(":")[0])
    assert listening == ["0100007F"]


# ---------------------------------------------------------------- commands through it


def test_a_second_service_on_the_same_home_is_refused_at_once(day: Day) -> None:
    began = monotonic()
    assert f"another Nightschool holds {day.service.home}" in run_cli(
        day.service.home, "run", "--json"
    ).failed(11)
    assert monotonic() - began < 10


def test_a_question_goes_through_the_running_service(day: Day) -> None:
    reply = cli_json(day.service.home, "ask", "I have decided to paint the door.")
    assert reply["answer"] and reply["checkpoint"] == day.status()["checkpoint"]


def test_a_pause_is_reported_and_a_resume_ends_it(day: Day) -> None:
    assert cli_json(day.service.home, "pause") == {"paused": True}
    assert day.status()["next_update_reason"] == "paused: `nightschool resume` to go on"
    assert cli_json(day.service.home, "resume") == {"paused": False}
    assert not day.status()["next_update_reason"].startswith("paused")


def test_a_rollback_through_the_running_service_serves_the_old_weights_at_once(day: Day) -> None:
    def version() -> int:
        with day.http(Authorization=f"Bearer {day.token}") as http:
            return int(http.post("chat/completions", json=QUESTION).json()["weights_version"])

    before = version()
    assert cli_json(day.service.home, "rollback", "--dry-run")["dry_run"] is True
    assert version() == before and day.status()["checkpoint"] == day.learnt["checkpoint"]
    rollback = cli_json(day.service.home, "rollback")
    assert (rollback["from"], rollback["to"]) == (day.learnt["checkpoint"], day.before["checkpoint"])
    assert version() > before
    after = day.status()
    assert (after["checkpoint"], after["weights_sha256"]) == (
        day.before["checkpoint"],
        day.before["weights_sha256"],
    )
    assert after["last_update"]["state"] == "undone"


def test_an_undone_update_is_not_trained_again_automatically(day: Day) -> None:
    status = day.status()
    assert status["next_update_reason"] == "0 new lessons, 1 needed" and status["last_night"]["id"] == "n1"


def test_sigterm_ends_the_service_cleanly_within_5_seconds_and_leaves_nothing(day: Day) -> None:
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(day.service.process.pid)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert len(children) == 2  # the model server and the trainer
    began = monotonic()
    day.service.process.send_signal(signal.SIGTERM)
    assert day.service.process.wait(30) == 0, day.service.log_text()
    assert monotonic() - began < STOP_S
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert not Home(day.service.home).run_dir.exists()
    assert "Traceback" not in day.service.log_text()
    status = cli_json(day.service.home, "status")
    assert status["service"] == "down" and status["checkpoint"] == day.before["checkpoint"]


def test_a_watched_folder_that_does_not_exist_stops_the_start_with_the_cure(tmp_path: Path) -> None:
    home = small_home(tmp_path / "home")
    message = run_cli(home, "run", "--watch", tmp_path / "nowhere", "--json").failed(2)
    assert str(tmp_path / "nowhere") in message and "make the folder" in message
