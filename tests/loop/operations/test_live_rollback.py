"""Rollbacks under load: no request fails, and every answer is exactly that of the version it names."""

import json
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import httpx
import numpy as np
import pytest
from small import Service, run_cli, small_home, wait_until

from agents.model.weights.rwlock import PATIENCE_S
from agents.model.weights.shared import SharedWeights
from corpus.aliases import Json
from store import queries
from store.checkpoints.store import CheckpointStore
from store.home import Home
from store.ledger.db import Ledger, database_url
from store.ledger.records import Checkpoint, save
from store.tensors.raw import RawTensor

ROLLBACKS = 12
TEXTS = (
    "I have decided to paint the door.",
    "What is the name of the tool that cuts wood?",
    "Please list the steps to sand the old table.",
    "Good morning, how was the day?",
)
CHOICES: tuple[Json, ...] = (
    {"temperature": 0},
    {"temperature": 1.0, "seed": 7},
    {"temperature": 0, "stream": True},
)
"""How each is asked; all of them say the same each time they are asked of the same weights."""
QUESTIONS = tuple(
    {"messages": [{"role": "user", "content": text}], "max_tokens": 24, **choice}
    for text, choice in zip(TEXTS, (*CHOICES, CHOICES[1]), strict=True)
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer with the versions of its weights."""

    text: str
    versions: tuple[int, int]
    """Of the weights that it began and ended with."""


def ask_over_http(http: httpx.Client, question: Json) -> Answer:
    """Send a question; return the answer from either response form."""
    answer = http.post("chat/completions", json=question)
    assert answer.status_code == 200, answer.text
    if not question.get("stream"):
        body = answer.json()
        text = body["choices"][0]["message"]["content"]
        return Answer(text=text, versions=(body["weights_version"], body["weights_version_end"]))
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    events = [json.loads(line) for line in lines[:-1]]
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    return Answer(text=text, versions=(events[0]["weights_version"], events[-1]["weights_version_end"]))


class User(threading.Thread):
    """A user who sends the same question again and again until stopped."""

    def __init__(self, connect: Callable[[], httpx.Client], question: Json) -> None:
        super().__init__(daemon=True)
        self.question, self.answers, self.stop = question, list[Answer](), threading.Event()
        self.fault: BaseException | None = None
        self._connect = connect

    def run(self) -> None:
        try:
            with self._connect() as http:
                while not self.stop.is_set():
                    self.answers.append(ask_over_http(http, self.question))
        except BaseException as fault:
            self.fault = fault


@dataclass
class LiveService:
    """A service, its checkpoints, and the answers of each of them at rest."""

    service: Service
    url: str
    checkpoints: list[str]
    answers: dict[str, list[str]] = field(default_factory=dict)
    held: dict[int, str] = field(default_factory=dict)
    """The checkpoint of each version of the weights."""

    def connect(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {Home(self.service.home).token()}", "X-Turn-Type": "side"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    def do(self, operation: str, **arguments: object) -> Json:
        """Run an operation over HTTP; return its last line."""
        with self.connect() as http:
            answer = http.post(f"{self.url.removesuffix('/v1')}/do/{operation}", json=arguments)
            last_line: Json = json.loads(answer.text.splitlines()[-1])
            return last_line

    def shown(self) -> Json:
        """Return version, dirtiness and checkpoint of the served weights."""
        with self.connect() as http:
            card: Json = http.get("models").json()["data"][0]
        return card

    def go(self, checkpoint: str) -> None:
        """Roll back to this checkpoint."""
        last_line = self.do("rollback", target=checkpoint)
        assert last_line["result"]["to"] == checkpoint, last_line
        card = self.shown()
        assert (card["weights_held"], card["weights_dirty"]) == (checkpoint, False)
        assert card["weights_version"] not in self.held
        self.held[card["weights_version"]] = checkpoint

    def ask(self, question: Json) -> Answer:
        with self.connect() as http:
            return ask_over_http(http, question)


def with_relatives(home: Path) -> list[str]:
    """Give the home two kept checkpoints after the base; return the ids of all three in order."""
    store, draw = CheckpointStore(home / "checkpoints"), np.random.default_rng(3)
    ledger = Ledger(database_url(home))
    with ledger.reading() as connection:
        line = [str(queries.active(connection).id)]
    for number in (1, 2):
        weights = {}
        for name, raw in store.load_weights(line[0]).items():
            values = np.frombuffer(raw.data, np.float32)
            moved = values * (1 + 0.6 * draw.standard_normal(values.size)).astype(np.float32)
            weights[name] = RawTensor(dtype=raw.dtype, shape=raw.shape, data=moved.tobytes())
        written = store.write(weights, None, {"parent": line[-1], "cursor": number, "seed": 1})
        row = Checkpoint(
            id=written.id, parent_id=line[-1], number=number, weights_sha256=written.weights_sha256,
            update_id=None, state="kept", at="2026-01-01T00:00:00.000+00:00",
        )  # fmt: skip
        with ledger.writing() as connection:
            save(connection, [row])
        line.append(written.id)
    ledger.close()
    return line


@pytest.fixture(scope="module")
def live(
    tmp_path_factory: pytest.TempPathFactory, start_service: Callable[..., Service]
) -> Iterator[LiveService]:
    home = small_home(tmp_path_factory.mktemp("live") / "home")
    line = with_relatives(home)
    service = start_service(home)
    live = LiveService(service, service.ready()["url"], line)
    for checkpoint in reversed(line):
        live.go(checkpoint)
        live.answers[checkpoint] = [live.ask(question).text for question in QUESTIONS]
    yield live


def test_the_checkpoints_answer_differently(live: LiveService) -> None:
    for place in range(len(QUESTIONS)):
        assert len({live.answers[checkpoint][place] for checkpoint in live.checkpoints}) == 3


def test_under_load_no_request_fails_and_an_answer_of_one_version_is_that_checkpoints(
    live: LiveService,
) -> None:
    users = [User(live.connect, question) for question in QUESTIONS]
    for user in users:
        user.start()
    draw, before = random.Random(2), live.checkpoints[0]
    try:
        for number in range(ROLLBACKS):
            target = draw.choice([other for other in live.checkpoints if other != before])
            first = max(live.held)
            live.go(target)
            assert max(live.held) > first
            place = number % len(QUESTIONS)
            answer = live.ask(QUESTIONS[place])
            assert answer.text == live.answers[target][place]  # the next answer is the old one
            assert {live.held[version] for version in answer.versions} == {target}
            before = target
    finally:
        for user in users:
            user.stop.set()
    for place, user in enumerate(users):
        user.join(60)
        assert user.fault is None, user.fault
        assert len(user.answers) > ROLLBACKS / 2
        whole = [answer for answer in user.answers if answer.versions[0] == answer.versions[1]]
        for answer in whole:
            assert answer.text == live.answers[live.held[answer.versions[0]]][place]
        assert all(answer.versions[0] <= answer.versions[1] for answer in user.answers)
    assert any(answer.versions[0] != answer.versions[1] for user in users for answer in user.answers)


def test_a_rollback_to_a_damaged_checkpoint_is_refused_with_the_nearest_named_and_the_old_one_stays_served(
    live: LiveService,
) -> None:
    base, first, second = live.checkpoints
    if live.shown()["weights_held"] != second:
        live.go(second)
    before, store = live.shown(), CheckpointStore(live.service.home / "checkpoints")
    blob = store.blobs.path(store.manifest(first).weights)
    whole = blob.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    blob.write_bytes(flipped)
    try:
        message = run_cli(live.service.home, "rollback", first, "--json").failed(12)
        assert blob.name in message and f"Nothing was changed; the nearest good one is {base[:12]}" in message
        assert live.do("rollback", target=first)["error"]["exit_code"] == 12
    finally:
        blob.write_bytes(whole)
    assert (
        live.shown() == before and live.do("rollback", target=base, dry_run=True)["result"]["from"] == second
    )
    assert [live.ask(question).text for question in QUESTIONS] == live.answers[second]
    live.go(first)  # it is whole again


def ask_during_a_write(live: LiveService) -> tuple[float, int, set[str]]:
    """Ask during a half-finished write; return its seconds, the answers within it, and all texts."""
    run_dir, asked = Home(live.service.home).run_dir, "nightschool_user_requests_running 1"
    shared = SharedWeights.attach(run_dir / "weights.bin")
    weights, user = shared.tensors["model.norm.weight"], User(live.connect, QUESTIONS[0])
    before = weights.clone()
    headers = {"Authorization": f"Bearer {Home(live.service.home).token()}"}
    transport = httpx.HTTPTransport(uds=str(run_dir / "model.sock"))
    with httpx.Client(transport=transport, base_url="http://localhost", headers=headers, timeout=60) as model:
        with shared.lock.write_lock():
            began = monotonic()
            weights.zero_()
            user.start()
            wait_until(lambda: asked in model.get("/metrics").text or user.answers, "it is asked", 60)
            for _ in range(50):  # in which it would be answered
                model.get("/metrics")
            early = len(user.answers)
            weights.copy_(before)
            took = monotonic() - began
    user.stop.set()
    user.join(60)
    return took, early, {answer.text for answer in user.answers}


def test_no_forward_pass_reads_half_written_weights(live: LiveService) -> None:
    held = live.shown()["weights_held"]
    for _ in range(10):  # a machine so busy that PATIENCE_S went by says nothing
        took, early, texts = ask_during_a_write(live)
        if took < PATIENCE_S:
            break
    assert took < PATIENCE_S
    assert early == 0 and texts == {live.answers[held][0]}
