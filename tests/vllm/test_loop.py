"""The whole loop on a user's own vLLM: only `model.url` is set, and vLLM is never restarted."""

import math
import re
import signal
from collections.abc import Iterator

import pytest
from conftest import Vllm, free_port, serving
from homes import SEATS, Asking, configure, held, logprobs, vllm_home
from small import cli_json, run_cli, start_service, wait_until

QUESTION = "I have decided to paint the door. Please buy the paint."
SEEN_S = 200.0


class School:
    """One home on one vLLM, from its first night, which only observes, to the first update that is kept."""

    def __init__(self, vllm: Vllm) -> None:
        self.vllm, self.path = vllm, vllm.home.path
        self.base: str = cli_json(self.path, "status")["checkpoint"]
        self.before = logprobs(vllm)
        self.observed = cli_json(self.path, "night")
        self.unchanged = logprobs(vllm)
        self.standing = cli_json(self.path, "status")["next_update_reason"]
        self.checks = {one["check"]: one for one in cli_json(self.path, "doctor")["checks"]}
        configure(vllm.home, vllm.url, trains=True)
        with Asking(vllm) as users:
            self.night = cli_json(self.path, "night")
        self.users = users.answers
        self.kept: str = self.night["updates"][0]["checkpoint"]
        self.after = logprobs(vllm)


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> Iterator[School]:
    place, port = tmp_path_factory.mktemp("loop"), free_port()
    home = vllm_home(place / "home", f"http://127.0.0.1:{port}", trains=None)
    with serving(home, place / "vllm.log", port=port, arguments=SEATS) as vllm:
        yield School(vllm)


def test_until_training_is_switched_on_a_night_does_everything_but_the_update(school: School) -> None:
    assert school.observed["pairs"] >= 8 and school.observed["updates"] == []
    assert "training.enabled is false: observing only" in school.observed["reasons"][0]
    assert school.unchanged == school.before


def test_doctor_finds_the_vllm_the_shared_weights_the_model_and_the_memory(school: School) -> None:
    assert [name for name, check in school.checks.items() if not check["ok"]] == []
    assert "3.5 MiB of weights shared" in school.checks["plugin"]["found"]
    assert "GiB are free" in school.checks["memory"]["found"]
    assert "set it to true" in school.checks["training"]["found"]


def test_a_night_is_kept_and_changes_what_vllm_answers_while_users_are_served(school: School) -> None:
    assert [update["verdict"] for update in school.night["updates"]] == ["keep"], school.night
    assert school.after != school.before
    assert held(school.vllm) == (school.kept, False)
    assert set(school.users) == {200} and len(school.users) > 10


def test_questions_and_measurements_use_the_same_weights(school: School) -> None:
    told = cli_json(school.path, "ask", QUESTION)
    assert told["answer"] and told["checkpoint"] == school.kept
    measured = cli_json(school.path, "behaviours", "measure")
    assert measured["weights_sha256"] == told["weights_sha256"]
    assert all(behaviour["trials"] == 32 for behaviour in measured["behaviours"])


def test_a_rollback_is_bit_for_bit_with_the_service_down_and_forward_with_it_up(school: School) -> None:
    told = cli_json(school.path, "rollback")
    assert told["to"] == school.base
    assert (held(school.vllm), logprobs(school.vllm)) == ((school.base, False), school.before)
    service = start_service(school.path, school.vllm.log.with_name("service.log"))
    try:
        service.ready()
        assert cli_json(school.path, "rollback", school.kept)["to"] == school.kept
        assert (held(school.vllm), logprobs(school.vllm)) == ((school.kept, False), school.after)
    finally:
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(10) == 0


def test_a_user_who_calls_vllm_directly_keeps_a_night_from_starting(school: School) -> None:
    text = school.vllm.home.config_file.read_text()
    school.vllm.home.config_file.write_text(
        text.replace("windows = []", 'windows = ["00:00-24:00"]\nidle_minutes = 60\nmin_lessons = 0')
    )
    service = start_service(school.path, school.vllm.log.with_name("idle.log"))
    try:
        service.ready()
        wait_until(lambda: idle_s(school) > 4, "nobody is seen", SEEN_S)
        with Asking(school.vllm):
            wait_until(lambda: idle_s(school) < 3, "the user is seen", SEEN_S)
    finally:
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(10) == 0
        school.vllm.home.config_file.write_text(text)


def idle_s(school: School) -> float:
    """Return the seconds since a user was active by the service's status; NaN while it has none."""
    said = re.search(
        r"a user was active (\d+) s ago", str(cli_json(school.path, "status")["next_update_reason"])
    )
    return float(said[1]) if said else math.nan


def test_a_stopped_vllm_is_reported_and_leaves_nothing(school: School) -> None:
    school.vllm.stop()
    assert not school.vllm.home.served_dir.exists()
    said = run_cli(school.path, "ask", QUESTION, "--json").failed(1)
    assert f"vLLM at {school.vllm.url} does not answer: start it" in said
