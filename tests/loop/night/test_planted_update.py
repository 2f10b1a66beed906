"""The drift gate on real weights refuses an update whose answers are as good as those of a kept one."""

import json
import sqlite3
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from conftest import Command
from planting import LAYER, planted
from small import SMALL, cli_json, correction_lines
from sqlalchemy import Connection

from agents.model.steering.concept_vectors import read
from corpus.json_edge import to_json
from corpus.world.concepts import CONCEPTS
from loop.config import load_settings
from loop.engine.service import Service, opened
from loop.night import flow
from loop.night.decide import Decide
from loop.operations import status
from store import queries
from store.graph import READ
from store.home import Home
from store.ledger.db import now
from store.ledger.records import Checkpoint, Update, save
from store.queue import work
from store.queue.outcome import Outcome
from store.queue.work import Work
from store.readings import readings
from store.readings.records import ConversationReading, MovedReadings

pytestmark = pytest.mark.slow  # a night and two updates

WATCHED = "pushing_back"
CONFIG = SMALL.format(windows="[]").replace("drift = 100.0", "drift = 1.5", 1).replace("= 100.0", "= 0.5")
FAR, NEAR = 2.0, 1.4
"""How far the watched reading is moved, in spreads: over the bound of one concept, and under it."""


@dataclass(frozen=True, kw_only=True)
class GatedNight:
    """A night's verdict, and the verdict on the same measurements without the drift tests."""

    reasons: list[str]
    state: str
    tests: list[dict[str, Any]]
    without_drift: str
    moves: MovedReadings | None
    active: str


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a home that has read lessons, with a gate that is strict about readings."""
    place = tmp_path_factory.mktemp("planted")
    home, log = place / "home", place / "log.jsonl"
    cli_json(home, "init")
    (home / "config.toml").write_text(CONFIG)
    log.write_text("\n".join([*correction_lines("decision", 12), *correction_lines("question", 12)]) + "\n")
    cli_json(home, "ingest", log)
    return home


@pytest.fixture(scope="module")
def nights(home: Path) -> dict[float, GatedNight]:
    """Return nights by planted move: 0 for a real night, otherwise the same update with a concept moved."""
    return anyio.run(_nights, Home(home))


async def _nights(home: Home) -> dict[float, GatedNight]:
    async with opened(home, load_settings(home.config_file)) as service, anyio.create_task_group() as tasks:
        await tasks.start(service.processes.run)
        tasks.start_soon(service.worker.run)
        with anyio.fail_after(240):
            night_id = await service.begin_night(seed=0, retry=False)
            await service.worker.wait_closed(night_id)
            gated = {0.0: await _verdict(service, night_id)}
            for spreads in (FAR, NEAR):
                plant = await _plant(service, spreads)
                await service.ledger.write(partial(_as_trained, service=service, plant=plant))
                service.worker.wake()
                await service.worker.wait_closed(plant.night_id)
                gated[spreads] = await _verdict(service, plant.night_id)
        tasks.cancel_scope.cancel()
    return gated


@dataclass(frozen=True, kw_only=True)
class Plant:
    """An update that nobody trained."""

    night_id: str
    number: int
    parent_id: str
    checkpoint_id: str
    weights_sha256: str


async def _plant(service: Service, spreads: float) -> Plant:
    """Plant the kept weights with the watched reading moved by so many standard deviations."""
    active = await service.ledger.read(queries.active)
    parent = await service.ledger.read(queries.checkpoint, active.parent_id)
    vectors = read(service.home.path / "readout")
    assert vectors is not None
    before = await service.ledger.read(readings.panel, parent.weights_sha256, vectors.digest)
    assert before is not None
    at = vectors.concepts.index(WATCHED)
    weights = dict(service.store.load_weights(active.id))
    moved = planted(weights, vectors.values[0, at].astype(np.float64), spreads * before[:, at].std())
    files = service.store.write(moved, None, {"parent": parent.id, "planted": str(spreads)})
    number = len(await service.ledger.read(queries.checkpoints))
    return Plant(
        night_id=f"n{number}",
        number=number,
        parent_id=parent.id,
        checkpoint_id=files.id,
        weights_sha256=files.weights_sha256,
    )


def _as_trained(connection: Connection, *, service: Service, plant: Plant) -> None:
    """The rows of a night whose update has just been trained, with the targets and the seed of the first
    night."""
    first = queries.night(connection, "n1")
    night = replace(first, id=plant.night_id, number=plant.number, state="running", reasons=[], finished=None)
    save(connection, [night])
    update_id = f"u{plant.number}"
    checkpoint = Checkpoint(
        id=plant.checkpoint_id,
        parent_id=plant.parent_id,
        number=plant.number,
        weights_sha256=plant.weights_sha256,
        update_id=update_id,
        state="candidate",
        at=now(),
    )
    update = Update(
        id=update_id,
        night_id=plant.night_id,
        objective="orpo",
        settings={},
        seed=0,
        parent_id=plant.parent_id,
        checkpoint_id=plant.checkpoint_id,
        state="trained",
        at=now(),
    )
    save(connection, [checkpoint])
    save(connection, [update])
    trained = Work(id=0, kind="train", subject="update", night_id=plant.night_id, attempts=0)
    for kind, subject in flow.follow(trained, Outcome(decision="trained", names=tuple(service.behaviours))):
        work.enqueue(connection, kind, subject, plant.night_id)


async def _verdict(service: Service, night_id: str) -> GatedNight:
    """Return the verdict of a night, and that of the same stage without a bound on the readings."""
    unbound = replace(service.settings.verdict, drift=inf, joint_drift=inf)
    blind = replace(service.context, settings=service.settings.model_copy(update={"verdict": unbound}))
    again = await Decide(blind).handle(
        Work(id=0, kind="rule", subject="0", night_id=night_id, attempts=0), _nothing
    )
    update = await service.ledger.read(queries.update_of, night_id)
    assert update is not None
    verdict = await service.ledger.read(queries.verdict, update.id)
    assert verdict is not None
    return GatedNight(
        reasons=update.reasons,
        state=update.state,
        tests=verdict.tests,
        without_drift=again.decision,
        moves=await service.ledger.read(readings.moves_of, update.id),
        active=(await service.ledger.read(queries.active)).id,
    )


async def _nothing(done: int, total: int) -> None:
    """Ignore progress."""


def feelings_of(home: Path, conversation_id: str) -> list[ConversationReading]:
    """Return the feelings of a conversation's episodes, as the ledger has them."""
    with status.ledger_of(Home(home)) as connection:
        return readings.of_conversation(connection, conversation_id)


def test_an_honest_update_passes_the_drift_gate(nights: dict[float, GatedNight]) -> None:
    assert (nights[0.0].state, nights[0.0].without_drift) == ("kept", "keep")


@pytest.mark.parametrize(
    ("spreads", "reason"),
    [
        (FAR, f"the reading of '{WATCHED}' moved by +"),
        (NEAR, "the readings moved together by "),
    ],
)
def test_an_update_that_pass_rates_alone_would_keep_is_refused_for_its_drift(
    nights: dict[float, GatedNight], spreads: float, reason: str
) -> None:
    gated = nights[spreads]
    assert gated.without_drift == "keep"  # the same measurements, with no bound on the readings
    assert gated.state == "undone" and gated.active == nights[0.0].active
    assert any(reported.startswith(reason) for reported in gated.reasons), gated.reasons
    assert all("moved" in reported for reported in gated.reasons)  # nothing else speaks against it
    assert f"'{WATCHED}'" in " ".join(gated.reasons)


def test_the_location_of_the_planted_update_is_reported(nights: dict[float, GatedNight]) -> None:
    honest, moved = nights[0.0].moves, nights[FAR].moves
    assert honest is not None and moved is not None
    assert max(moved.readings, key=lambda name: abs(moved.readings[name])) == WATCHED
    first = moved.parts["along"][0]
    assert (first["concept"], first["tensor"]) == (WATCHED, "model.layers.2.mlp.down_proj.weight")
    assert first["times_chance"] > 5 > max(row["times_chance"] for row in honest.parts["along"])


def test_the_commands_show_the_readings_and_the_location_of_each_update(
    home: Path, nights: dict[float, GatedNight], command: Command
) -> None:
    reported = command("--home", home, "--json", "readout", "drift").result
    assert [row["state"] for row in reported["updates"]] == ["kept", "undone", "undone"]
    honest, far, near = (row["joint"] for row in reported["updates"])
    assert honest < 0.2 < 0.5 < near < far
    assert next(iter(reported["updates"][1]["parts"])) == WATCHED
    assert reported["turns_read"] == 24 * 4 and 0 < reported["attempts_read"] <= 256
    assert reported["baseline"]["turns"] == reported["turns_read"]
    assert WATCHED in reported["baseline"]["concepts"]
    (version,) = reported["versions"]
    assert version["cosines"] is None and version["layer"] == LAYER
    assert "pushing_back +1." in command("--home", home, "readout", "drift").out
    with sqlite3.connect(home / "ledger.db") as connection:
        (heard,) = connection.execute("SELECT id FROM conversations ORDER BY id").fetchone()
    connection.close()
    read = feelings_of(home, heard)
    assert [row.position for row in read] == [0, 1, 2, 3] and set(read[0].scores) == set(CONCEPTS)
    why = command("--home", home, "--json", "ledger", "why", "u2").result["update"]
    assert why["moves"] == to_json(nights[FAR].moves)
    assert "writes along pushing_back" in command("--home", home, "ledger", "why", "u2").out
    diff = command("--home", home, "--json", "checkpoints", "diff", "base").result
    assert [step["moves"] for step in diff["added"]] == [to_json(nights[0.0].moves)]
    assert "where it moved: " in command("--home", home, "checkpoints", "diff", "base").out


def test_episodes_have_feelings_from_readings_in_addition_to_words(
    home: Path, nights: dict[float, GatedNight]
) -> None:
    with sqlite3.connect(home / "ledger.db") as connection:
        rows = connection.execute("SELECT feelings FROM nodes WHERE kind = 'episode'").fetchall()
    connection.close()
    felt = [json.loads(feelings) for (feelings,) in rows]
    read = [{name for name in feelings if name.startswith(READ)} for feelings in felt]
    assert sum(map(bool, read)) > len(felt) / 3
    assert all(0 < score <= 1 for feelings in felt for score in feelings.values())
    assert {name.removeprefix(READ) for names in read for name in names} <= set(CONCEPTS)
