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

ROLLBACKS = 24
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
class Said:
    """One answer."""

    text: str
    versions: tuple[int, int]
    """Of the weights that it began and ended with."""


def said(http: httpx.Client, question: Json) -> Said:
    """Ask, and understand the answer in either form."""
    answer = http.post("chat/completions", json=question)
    assert answer.status_code == 200, answer.text
    if not question.get("stream"):
        told = answer.json()
        text = told["choices"][0]["message"]["content"]
        return Said(text=text, versions=(told["weights_version"], told["weights_version_end"]))
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    events = [json.loads(line) for line in lines[:-1]]
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    return Said(text=text, versions=(events[0]["weights_version"], events[-1]["weights_version_end"]))


class User(threading.Thread):
    """Somebody who asks the same question again and again until told to stop."""

    def __init__(self, connect: Callable[[], httpx.Client], question: Json) -> None:
        super().__init__(daemon=True)
        self.question, self.answers, self.stop = question, list[Said](), threading.Event()
        self.fault: BaseException | None = None
        self._connect = connect

    def run(self) -> None:
        try:
            with self._connect() as http:
                while not self.stop.is_set():
                    self.answers.append(said(http, self.question))
        except BaseException as fault:
            self.fault = fault


@dataclass
class Street:
    """A service, its checkpoints, and what each of them answers when nothing else goes on."""

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
        """Carry out an operation over HTTP; its last line."""
        with self.connect() as http:
            answer = http.post(f"{self.url.removesuffix('/v1')}/do/{operation}", json=arguments)
            told: Json = json.loads(answer.text.splitlines()[-1])
            return told

    def shown(self) -> Json:
        """Version, dirtiness and checkpoint of the weights that are served."""
        with self.connect() as http:
            card: Json = http.get("models").json()["data"][0]
        return card

    def go(self, checkpoint: str) -> None:
        """Roll back to this one."""
        told = self.do("rollback", target=checkpoint)
        assert told["result"]["to"] == checkpoint, told
        card = self.shown()
        assert (card["weights_held"], card["weights_dirty"]) == (checkpoint, False)
        assert card["weights_version"] not in self.held
        self.held[card["weights_version"]] = checkpoint

    def ask(self, question: Json) -> Said:
        with self.connect() as http:
            return said(http, question)


def with_relatives(home: Path) -> list[str]:
    """Give the home two kept checkpoints after the base, with other weights; all three, oldest first."""
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
        made = store.write(weights, None, {"parent": line[-1], "cursor": number, "seed": 1})
        row = Checkpoint(
            id=made.id, parent_id=line[-1], number=number, weights_sha256=made.weights_sha256, update_id=None,
            state="kept", at="2026-01-01T00:00:00.000+00:00",
        )  # fmt: skip
        with ledger.writing() as connection:
            save(connection, [row])
        line.append(made.id)
    ledger.close()
    return line


@pytest.fixture(scope="module")
def street(
    tmp_path_factory: pytest.TempPathFactory, start_service: Callable[..., Service]
) -> Iterator[Street]:
    home = small_home(tmp_path_factory.mktemp("street") / "home")
    line = with_relatives(home)
    service = start_service(home)
    street = Street(service, service.ready()["url"], line)
    for checkpoint in reversed(line):
        street.go(checkpoint)
        street.answers[checkpoint] = [street.ask(question).text for question in QUESTIONS]
    yield street


def test_the_checkpoints_answer_differently(street: Street) -> None:
    for place in range(len(QUESTIONS)):
        assert len({street.answers[checkpoint][place] for checkpoint in street.checkpoints}) == 3


def test_under_load_no_request_fails_and_an_answer_of_one_version_is_that_checkpoints(street: Street) -> None:
    users = [User(street.connect, question) for question in QUESTIONS]
    for user in users:
        user.start()
    draw, before = random.Random(2), street.checkpoints[0]
    try:
        for number in range(ROLLBACKS):
            target = draw.choice([other for other in street.checkpoints if other != before])
            first = max(street.held)
            street.go(target)
            assert max(street.held) > first
            place = number % len(QUESTIONS)
            answer = street.ask(QUESTIONS[place])
            assert answer.text == street.answers[target][place]  # the next answer is the old one
            assert {street.held[version] for version in answer.versions} == {target}
            before = target
    finally:
        for user in users:
            user.stop.set()
    for place, user in enumerate(users):
        user.join(60)
        assert user.fault is None, user.fault
        assert len(user.answers) > ROLLBACKS / 2
        whole = [one for one in user.answers if one.versions[0] == one.versions[1]]
        assert [one for one in whole if one.text != street.answers[street.held[one.versions[0]]][place]] == []
        assert all(one.versions[0] <= one.versions[1] for one in user.answers)
    assert any(one.versions[0] != one.versions[1] for user in users for one in user.answers)


def test_a_rollback_to_a_damaged_checkpoint_is_refused_with_the_nearest_named_and_the_old_one_is_served_on(
    street: Street,
) -> None:
    base, first, second = street.checkpoints
    if street.shown()["weights_held"] != second:
        street.go(second)
    before, store = street.shown(), CheckpointStore(street.service.home / "checkpoints")
    blob = store.blobs.path(store.manifest(first).weights)
    whole = blob.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    blob.write_bytes(flipped)
    try:
        message = run_cli(street.service.home, "rollback", first, "--json").failed(12)
        assert blob.name in message and f"Nothing was changed; the nearest good one is {base[:12]}" in message
        assert street.do("rollback", target=first)["error"]["exit_code"] == 12
    finally:
        blob.write_bytes(whole)
    assert (
        street.shown() == before
        and street.do("rollback", target=base, dry_run=True)["result"]["from"] == second
    )
    assert [street.ask(question).text for question in QUESTIONS] == street.answers[second]
    street.go(first)  # it is whole again


def asked_in_mid_change(street: Street) -> tuple[float, int, set[str]]:
    """Ask during a half-finished write; return its seconds, the answers within it, and all texts."""
    run_dir, asked = Home(street.service.home).run_dir, "nightschool_user_requests_running 1"
    shared = SharedWeights.attach(run_dir / "weights.bin")
    weights, user = shared.tensors["model.norm.weight"], User(street.connect, QUESTIONS[0])
    before = weights.clone()
    headers = {"Authorization": f"Bearer {Home(street.service.home).token()}"}
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


def test_no_pass_through_the_model_reads_weights_that_are_half_written(street: Street) -> None:
    held = street.shown()["weights_held"]
    for _ in range(10):  # a machine so busy that PATIENCE_S went by says nothing
        took, early, texts = asked_in_mid_change(street)
        if took < PATIENCE_S:
            break
    assert took < PATIENCE_S
    assert early == 0 and texts == {street.answers[held][0]}
