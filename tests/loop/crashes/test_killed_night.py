"""The short form of `make chaos`, and a service that is stopped or whose children are killed."""

import json
import os
import random
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import anyio
import pytest
from chaos import (
    CONFIG,
    NIGHT_S,
    START_S,
    Place,
    Running,
    child_of,
    cleaned_up,
    differences,
    faults,
    kill_nights,
    kill_services,
    kill_until_done,
    learning_home,
    lessons_of,
    prepared_home,
)

from agents.model.weights.shared import SharedWeights
from agents.model.weights.snapshot import raw_weights
from loop.config import load_settings
from loop.engine.service import Service, opened
from store import queries
from store.home import Home

SEED = int(os.environ.get("CHAOS_SEED", "1"))
SERVER, TRAINER = "agents.model.embedded.server", "agents.trainer.process.main"
NOTICED_S = 1.0
"""What is promised of a child's death."""
STEP = 2
"""The step of the update at which its trainer is killed."""


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """A home before its night, and the same home after an undisturbed night."""

    folder: Path
    before: Place
    after: Place
    rows: dict[str, list[str]]
    checkpoint: str
    works: int
    """Pieces of work of the whole night."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    folder = tmp_path_factory.mktemp("undisturbed")
    with cleaned_up(prepared_home(folder)) as before, cleaned_up(before.copy(folder / "after")) as after:
        report = after.do("night")
        assert [update["verdict"] for update in report["updates"]] == ["keep"], report
        assert faults(after) == []
        yield Undisturbed(
            folder=folder,
            before=before,
            after=after,
            rows=after.rows(),
            checkpoint=after.active(),
            works=after.works_done(),
        )


@pytest.fixture
def place(undisturbed: Undisturbed, tmp_path: Path) -> Iterator[Place]:
    """Copy the home before its night, to be disturbed."""
    with cleaned_up(undisturbed.before.copy(tmp_path / "home")) as copy:
        yield copy


@pytest.fixture
def draw() -> random.Random:
    print(f"CHAOS_SEED={SEED}")  # noqa: T201  (shown when the test fails)
    return random.Random(SEED)


@pytest.mark.parametrize("kills", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_night_killed_at_commits_ends_like_an_undisturbed_one(
    undisturbed: Undisturbed, place: Place, draw: random.Random, kills: int
) -> None:
    kill_nights(place, draw, kills, undisturbed.works, print)
    assert place.active() == undisturbed.checkpoint
    assert differences(place, undisturbed.rows) == []
    assert faults(place) == []


@pytest.mark.slow
def test_a_killed_init_or_ingest_takes_effect_exactly_once_when_repeated(
    undisturbed: Undisturbed, tmp_path: Path, draw: random.Random
) -> None:
    init, ingest = (command.commits for command in undisturbed.before.running)
    with cleaned_up(Place(tmp_path / "home")) as place:
        assert kill_until_done(place, draw, init, 2, print, "init")
        (place.path / "config.toml").write_text(CONFIG)
        assert kill_until_done(place, draw, ingest, 2, print, "ingest", str(undisturbed.folder / "log.jsonl"))
        assert differences(place, undisturbed.before.rows()) == []


@pytest.mark.slow
def test_a_service_killed_while_it_learns_from_its_inbox_keeps_the_checkpoint_of_the_undisturbed_night(
    undisturbed: Undisturbed, tmp_path: Path, draw: random.Random
) -> None:
    with cleaned_up(learning_home(tmp_path / "home", lessons_of(undisturbed.after))) as place:
        shutil.copy(undisturbed.folder / "log.jsonl", place.path / "inbox" / "log.jsonl")
        kill_services(place, draw, 1, undisturbed.works, print)
        heard = "SELECT chain, text FROM turns ORDER BY chain"
        assert place.ask(heard) == undisturbed.after.ask(heard)
        assert place.active() == undisturbed.checkpoint
        assert faults(place) == []


@pytest.mark.slow
def test_a_service_whose_children_are_killed_mid_night_ends_it_with_the_same_checkpoint(
    undisturbed: Undisturbed, place: Place
) -> None:
    service = place.start("run")
    until_ready(service)
    second = place.start("run")
    assert second.ended(START_S) == 11, second.log()
    asking = place.start("--json", "night")
    until_leased(place, service, "train", "update")
    service.stop()
    assert asking.ended() == 1 and "the service" in asking.output()
    assert leftovers(place) == []
    service = place.start("run")
    until_ready(service)
    killed = kill_child(place, service, TRAINER, "train", "update")
    service.wait_until(
        lambda: child_of(service.process.pid, TRAINER) not in (0, killed), "a new trainer", START_S
    )
    kill_child(place, service, SERVER, "measure", "after/0/read_back")
    service.wait_until(
        lambda: place.ask("SELECT state FROM nights") == [("done",)], "the end of the night", NIGHT_S
    )
    service.stop()
    assert place.active() == undisturbed.checkpoint
    failures = [
        json.loads(body)["subject"] for (body,) in place.ask("SELECT body FROM events WHERE kind = 'failure'")
    ]
    assert failures == ["update", "after/0/read_back"]
    assert faults(place) == []


@dataclass(kw_only=True)
class Killed:
    """The observations of a night whose trainer was killed once."""

    service: Service
    trainer: int
    lost: anyio.Event
    at: float = 0.0
    noticed_s: float = 0.0
    restored: bool = False
    """Whether the mapping held the parent's bytes, and was clean, before the update was made again."""
    first_steps: int = 0
    """How often the update was begun."""
    dead: anyio.Event = field(default_factory=anyio.Event)

    def listen(self, kind: str, subject: str, done: int, total: int) -> None:
        """Count the starts of work, and kill at the step."""
        self.first_steps += (kind, done) == ("train", 1)
        if (kind, done) == ("train", STEP) and not self.dead.is_set():
            assert STEP < total
            self.at = monotonic()
            os.kill(self.trainer, signal.SIGKILL)
            self.dead.set()

    def look(self, parent: str) -> bool:
        """Record whether the shared weights hold this checkpoint, clean and bit for bit."""
        shared = SharedWeights.attach(self.service.home.run_dir / "weights.bin")
        wanted = self.service.store.load_weights(parent)
        served = {name: bytes(raw.data) for name, raw in raw_weights(shared).items()}
        same = served == {name: bytes(raw.data) for name, raw in wanted.items()}
        return same and (shared.holds, shared.dirty) == (parent, False)


async def killed_night(home: Home) -> Killed:
    """Run one night in this process, with a model server and a trainer as processes of their own."""
    async with opened(home, load_settings(home.config_file)) as service, anyio.create_task_group() as tasks:
        await tasks.start(service.processes.run)
        tasks.start_soon(service.worker.run)
        pid = (await service.trainer.status()).pid
        seen = Killed(service=service, trainer=pid, lost=service.processes.lost)
        service.worker.listeners.append(seen.listen)
        with anyio.fail_after(240):
            parent = (await service.ledger.read(queries.active)).id
            night_id = await service.begin_night(seed=0, retry=False)
            await seen.dead.wait()
            await seen.lost.wait()
            seen.noticed_s = monotonic() - seen.at
            await service.processes.ready.wait()
            seen.restored = seen.look(parent)  # before anybody else has had a turn
            await service.worker.wait_closed(night_id)
        tasks.cancel_scope.cancel()
    return seen


@pytest.mark.slow
def test_a_trainer_killed_at_a_step_is_noticed_within_a_second_and_its_update_takes_effect_exactly_once(
    undisturbed: Undisturbed, place: Place
) -> None:
    seen = anyio.run(killed_night, Home(place.path))
    assert seen.noticed_s < NOTICED_S
    assert seen.restored
    assert seen.first_steps == 2
    # One update, one set of steps, one candidate, and its id is that of the undisturbed night.
    changes = differences(place, undisturbed.rows)
    assert [line for line in changes if not line.startswith(("events", "work"))] == []
    assert place.ask("SELECT kind, attempts FROM work WHERE attempts > 0") == [("train", 1)]
    assert place.active() == undisturbed.checkpoint
    assert faults(place) == []


@pytest.mark.parametrize("module", [SERVER, pytest.param(TRAINER, marks=pytest.mark.slow)])
def test_a_service_stopped_while_its_children_start_leaves_nothing_behind(place: Place, module: str) -> None:
    service = place.start("run")
    service.wait_until(lambda: child_of(service.process.pid, module), f"the start of {module}", START_S)
    service.stop()
    assert leftovers(place) == []


def until_ready(service: Running) -> None:
    """Wait until the service is ready."""
    service.wait_until(lambda: " ready " in service.log(), "it is ready", START_S)


def until_leased(place: Place, service: Running, kind: str, subject: str) -> None:
    """Wait until this work is leased."""
    query = f"SELECT 1 FROM work WHERE kind = '{kind}' AND subject = '{subject}' AND state = 'leased'"
    service.wait_until(lambda: place.ask(query), f"{kind} {subject} has begun", NIGHT_S)


def kill_child(place: Place, service: Running, module: str, kind: str, subject: str) -> int:
    """Kill a child of the service while this work is leased; return its process id."""
    pid = child_of(service.process.pid, module)
    until_leased(place, service, kind, subject)
    os.kill(pid, signal.SIGKILL)
    return pid


def leftovers(place: Place) -> list[str]:
    """Return processes, sockets and shared weights that exist although no process holds the home."""
    return [fault for fault in faults(place) if fault.endswith("is left")]
