"""`readout train` on real homes, with and without a service, and its refusals."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import numpy as np
import pytest
from conftest import Command
from small import Service, cli_json, run_cli, small_home
from sqlalchemy import select

from agents.model.steering.concept_vectors import ConceptVectors, read
from corpus.errors import GateRefused, NightschoolError
from corpus.world.concepts import CONCEPTS
from loop.night import readings
from loop.operations.readouts import require_served
from store.ledger import schema
from store.ledger.db import Ledger, database_url
from store.ledger.records import Reading, save
from store.ledger.schema_readings import vector_versions
from store.nights import history
from store.readings import vector_versions as versions

KEYS = {"concepts", "layers", "hidden_size", "dtype", "model", "weights_version", "corpus_sha256"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_home(tmp_path_factory.mktemp("readouts") / "home")


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--layers", "1,4"], "this model's layers are 0 to 3: there is no layer 4"),
        (["--layers", "-1"], "layers are numbers from 0, or 'all'"),
        (["--layers", "first"], "--layers takes numbers separated by commas"),
        (["--layers", ""], "--layers takes numbers separated by commas"),
        (["--method", "svm"], "there is no method 'svm'; there are mean, pca, ridge"),
        (["--corpus", "moods"], "there is no corpus 'moods'; there are world, states"),
        (["--minimum", "25"], "'agreeing' has 24 texts in "),
        (["--minimum", "0"], "--minimum"),
        (["--corpus", "states", "--minimum", "40"], "has . texts in "),
    ],
)
def test_an_invalid_request_is_refused_before_a_model_is_loaded(
    home: Path, command: Command, arguments: list[str], fault: str
) -> None:
    ran = command("--home", home, "--json", "readout", "train", *arguments)
    assert re.search(fault, ran.failed(2)), ran
    assert "starting the model" not in ran.err and not (home / "readout").exists()


@pytest.mark.slow
def test_vectors_are_the_same_with_and_without_a_service(
    home: Path, start_service: Callable[..., Service]
) -> None:
    ran = run_cli(home, "readout", "train", "--layers", "2,1", "--json")
    assert ran.code == 0 and "reading the concepts' texts" in ran.err, ran
    result = ran.result
    assert (result["corpus"], result["method"], result["texts"], result["hidden_size"]) == (
        "world",
        "mean",
        240,
        128,
    )
    assert result["concepts"] == list(CONCEPTS)
    assert [(row["layer"], row["depth"]) for row in result["layers"]] == [(1, 0.5), (2, 0.75)]
    assert all(row["accuracy"] > 0.6 > 4 * result["chance"] for row in result["layers"])
    down = read(home / "readout")
    assert down is not None and (down.layers, down.weights_version) == ((1, 2), result["weights_version"])
    assert set(json.loads((home / "readout" / "readout.json").read_text())) == KEYS

    service = start_service(home)
    service.ready()
    with service.process:
        up = cli_json(home, "readout", "train", "--layers", "all")
        assert [row["layer"] for row in up["layers"]] == [0, 1, 2, 3]
        assert up["layers"][1:3] == result["layers"] and up["weights_version"] == result["weights_version"]
        home_vectors = read(home / "readout")
        assert home_vectors is not None and np.array_equal(home_vectors.values[1:3], down.values)
        assert "there is no layer 9" in run_cli(home, "readout", "train", "--layers", "9", "--json").failed(2)
        service.process.terminate()


@pytest.mark.parametrize(
    ("begun", "dirty", "holds", "fault"),
    [
        (True, False, "base", "a night is running"),
        (False, True, "base", "base, the active checkpoint, is not in place yet"),
        (False, False, "other", "is not in place yet"),
        (False, False, "base", ""),
    ],
)
def test_vectors_are_made_only_on_the_active_weights(
    tmp_path: Path, begun: bool, dirty: bool, holds: str, fault: str
) -> None:
    ledger = Ledger(database_url(tmp_path))
    with ledger.writing() as connection:
        history.add_base(connection, "base", "weights")
        if begun:
            history.begin_night(connection, seed=0, retry=False)

    async def status() -> Any:
        return SimpleNamespace(dirty=dirty, holds=holds)

    service: Any = SimpleNamespace(ledger=ledger, trainer=SimpleNamespace(status=status))
    try:
        assert anyio.run(require_served, service).weights_sha256 == "weights" and not fault
    except GateRefused as refused:
        assert fault and fault in str(refused)
    ledger.close()


# ---------------------------------------------------------------- readings that a verdict may compare


class Night:
    """An update's two sets of weights, and a monitor that reads a number from those in use."""

    def __init__(self, place: Path, vectors: ConceptVectors) -> None:
        self.ledger = Ledger(database_url(place))
        self.home_vectors = vectors
        self.held = ""
        self.read_of: list[str] = []
        self.settings = SimpleNamespace(monitor=SimpleNamespace(reestimate_nights=2))
        self.again: list[str] = []
        self.monitor = SimpleNamespace(
            ordinary_text=SimpleNamespace(name=""),
            concept_vectors=self._vectors,
            read=self._read,
            score_probe_set=self._panel,
            layer_of=lambda _: 2,
            reestimate=self._again,
        )

    async def checkpoint(self, night_id: str, when: str) -> Any:
        return SimpleNamespace(weights_sha256=when)

    async def hold(self, night_id: str, when: str) -> Any:
        self.held = when
        return await self.checkpoint(night_id, when)

    async def _vectors(self, weights: str, report: Any) -> ConceptVectors:
        return self.home_vectors

    async def _again(self, weights: str, known: ConceptVectors, method: str, report: Any) -> ConceptVectors:
        assert self.held == weights and method == "mean"
        self.again.append(weights)
        self.home_vectors = replace(vectors(3), weights_version=weights)
        return self.home_vectors

    async def _panel(self, weights: str, vectors: ConceptVectors) -> Any:
        assert self.held == weights
        return np.full((3, 1), float(len(weights))) + np.arange(3)[:, None]

    async def _read(self, weights: str, vectors: ConceptVectors, scores: Any) -> tuple[Reading, ...]:
        assert self.held == weights and scores.mean() == len(weights) + 1
        self.read_of.append(weights)
        row = Reading(
            weights_sha256=weights, name="joy", vectors=vectors.digest, mean=len(self.read_of), spread=0.5
        )
        return row, replace(row, name="perplexity", vectors="", mean=1.0, spread=0.0)

    def take(self, when: str, night_id: str = "n1") -> list[str]:
        """Take the readings of this stage as the loop does; return what was read."""
        self.read_of.clear()
        with self.ledger.writing() as connection:
            context: Any = self
            taken = anyio.run(readings.TakeReadings(context).take, night_id, when, None)
            save(connection, taken.readings)
            readings.save_taken(connection, taken, night_id)
        return list(self.read_of)


def vectors(seed: int) -> ConceptVectors:
    values = np.random.default_rng(seed).normal(size=(1, 1, 4)).astype(np.float32)
    return ConceptVectors(concepts=("joy",), layers=(2,), values=values, weights_version="w")


def test_readings_are_taken_once_and_those_of_the_parent_again_when_the_vectors_have_changed(
    tmp_path: Path,
) -> None:
    night = Night(tmp_path, vectors(1))
    assert night.take("before") == ["before"] and night.take("before") == []
    assert night.take("after") == ["after"] and night.take("after") == []
    night.home_vectors = vectors(2)  # somebody has trained others meanwhile
    assert night.take("after") == ["after", "before"]
    with night.ledger.reading() as connection:
        pair = readings.pair(connection, "before", "after")
        assert {row.vectors for side in pair for name, row in side.items() if name == "joy"} <= {
            vectors(1).digest,
            vectors(2).digest,
        }
        assert len({side["joy"].vectors for side in pair}) == 1 and set(readings.drift(*pair)) == {"joy"}
        assert len(connection.execute(schema.readings.select()).all()) == 6
    night.ledger.close()


def test_vectors_are_re_estimated_on_a_schedule_before_an_update_and_never_during_it(
    tmp_path: Path,
) -> None:
    night = Night(tmp_path, replace(vectors(1), weights_version="elsewhere"))
    for number in (1, 2, 3):
        with night.ledger.writing() as connection:
            begun = history.begin_night(connection, seed=0, retry=False)
        assert begun == f"n{number}"
        night.take("before", begun), night.take("after", begun)
        assert night.again == (["before"] if number == 3 else [])  # two nights after they were met
        with night.ledger.writing() as connection:
            history.close_night(connection, night_id=begun)
    with night.ledger.reading() as connection:
        first, second = versions.versions(connection)
        assert (first.digest, second.digest) == (vectors(1).digest, night.home_vectors.digest)
        one, other = vectors(1).values[0, 0], night.home_vectors.values[0, 0]
        cosine = float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
        assert first.cosines is None and second.cosines == {"joy": pytest.approx(cosine, abs=1e-4)}
        assert versions.together(connection, "before", "after") == night.home_vectors.digest
        joint = readings.joint(connection, "before", "after")
        assert joint is not None and joint.distance == pytest.approx(1 / np.arange(3).std())
        kept = (
            connection.execute(select(vector_versions.c.data).order_by(vector_versions.c.number))
            .scalars()
            .all()
        )
        assert kept[0] is None and len(kept[1]) == 16
    night.settings.monitor.reestimate_nights = 0
    night.home_vectors = replace(vectors(3), weights_version="elsewhere")
    night.take("before", "n3")
    assert night.again == ["before"]
    night.ledger.close()


def test_there_is_no_verdict_on_readings_of_different_vectors(tmp_path: Path) -> None:
    night = Night(tmp_path, vectors(1))
    night.take("before")
    with night.ledger.writing() as connection:
        save(
            connection, [Reading(weights_sha256="after", name="joy", vectors="another", mean=1.0, spread=1.0)]
        )
    with (
        night.ledger.reading() as connection,
        pytest.raises(NightschoolError, match="not read with the same vectors"),
    ):
        readings.pair(connection, "before", "after")
    night.ledger.close()
