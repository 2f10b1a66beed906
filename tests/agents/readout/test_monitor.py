"""The monitor reads with the home's vectors, makes them where there are none, and refuses those of others."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from read_here import LAYERS, Here, monitor, source

from agents.model.describe import digest
from agents.model.steering.concept_vectors import CARD, ConceptVectors, read, write
from agents.readout.concept_vectors import accuracy
from agents.readout.monitor import DEPTH
from agents.readout.train import default_set, train_concept_vectors
from corpus import concept_sets
from corpus.errors import IntegrityFault
from corpus.recipe import MODEL_DIR
from corpus.world.concepts import CONCEPTS, probe_texts
from store.ledger.records import Reading

WEIGHTS = "a" * 64
EMBEDDED = digest(MODEL_DIR)
CURE = "delete it to have the vectors made again"


def readings(place: Path, here: Here) -> tuple[Reading, ...]:
    async def take() -> tuple[Reading, ...]:
        looking = monitor(place, here, EMBEDDED)
        return await looking.read(WEIGHTS, await looking.concept_vectors(WEIGHTS))

    return anyio.run(take)


def planted(*, layers: tuple[int, ...] = (2,), hidden: int = 128, **more: Any) -> ConceptVectors:
    values = np.random.default_rng(3).normal(size=(len(layers), 2, hidden)).astype(np.float32)
    return ConceptVectors(
        concepts=("joy", "gloom"), layers=layers, values=values, weights_version="w", **more
    )


def test_a_home_without_vectors_gets_those_of_readout_train(tmp_path: Path) -> None:
    here = Here()
    first = readings(tmp_path, here)
    stored = read(tmp_path / "readout", model=EMBEDDED)
    assert stored is not None and (stored.concepts, stored.layers) == (CONCEPTS, (2,))
    assert (stored.weights_version, stored.model, stored.corpus_sha256) == (
        WEIGHTS,
        EMBEDDED,
        concept_sets.of_world().sha256,
    )
    assert {reading.name: reading.vectors for reading in first} == {
        **dict.fromkeys(CONCEPTS, stored.digest),
        "perplexity": "",
    }
    (tmp_path / "other").mkdir()
    again, _ = anyio.run(
        lambda: train_concept_vectors(
            source(tmp_path / "other", Here(), model_digest=EMBEDDED), concept_sets.of_world(), layers=[2]
        )
    )
    assert again.digest == stored.digest
    texts = len(here.asked)
    assert readings(tmp_path, here) == first and len(here.asked) == texts + len(probe_texts())


def test_the_users_own_vectors_are_read_at_the_nearest_layer(tmp_path: Path) -> None:
    chosen = planted(layers=(0, 1, 3))
    write(tmp_path / "readout", chosen)
    by_name = {reading.name: reading for reading in readings(tmp_path, Here())}
    assert set(by_name) == {"joy", "gloom", "perplexity"}
    looking = monitor(tmp_path, Here(), EMBEDDED)
    only = replace(
        chosen, layers=(1,), values=chosen.values[1:2].copy()
    )  # 1 and 3 are as near to 2: the first
    wanted = {reading.name: reading.mean for reading in anyio.run(looking.read, WEIGHTS, only)}
    assert {name: reading.mean for name, reading in by_name.items()} == pytest.approx(wanted)


@pytest.mark.parametrize(
    "other",
    [planted(model="another"), planted(hidden=64), planted(layers=(2, LAYERS))],
    ids=["model", "stream", "layers"],
)
def test_vectors_of_another_model_are_refused_with_the_cure(tmp_path: Path, other: ConceptVectors) -> None:
    write(tmp_path / "readout", other)
    with pytest.raises(IntegrityFault, match=CURE):
        readings(tmp_path, Here())


def test_vectors_whose_card_names_no_model_are_read(tmp_path: Path) -> None:
    write(tmp_path / "readout", planted())
    card = tmp_path / "readout" / CARD
    about = json.loads(card.read_text())
    card.write_text(
        json.dumps({name: about[name] for name in about if name not in ("model", "corpus_sha256")})
    )
    assert {reading.name for reading in readings(tmp_path, Here())} == {"joy", "gloom", "perplexity"}


@pytest.mark.parametrize("layers", [1, 2, 4, 28, 64])
def test_the_monitored_layer_is_past_the_middle_and_exists(tmp_path: Path, layers: int) -> None:
    layer = monitor(tmp_path, Here(), EMBEDDED, layers).layer
    assert 0 <= layer < layers and abs(layer - DEPTH * layers) <= 1


def test_the_embedded_model_has_its_own_set_and_other_models_have_the_states() -> None:
    assert (default_set(EMBEDDED), default_set("0" * 64)) == ("world", "states")


@pytest.mark.parametrize(("method", "least"), [("mean", 0.6), ("pca", 0.5), ("ridge", 0.85)])
def test_held_out_texts_of_the_world_are_classified_far_above_chance(
    tmp_path: Path, method: Any, least: float
) -> None:
    world = concept_sets.of_world()
    vectors, accuracies = anyio.run(
        lambda: train_concept_vectors(source(tmp_path, Here()), world, layers=[1, 2], method=method)
    )
    assert [row.layer for row in accuracies] == [1, 2] and accuracies[1].accuracy > least > 4 / len(CONCEPTS)
    assert np.linalg.norm(vectors.values, axis=-1) == pytest.approx(np.ones((2, len(CONCEPTS))), abs=1e-5)
    noise = np.random.default_rng(0).normal(size=(len(world.texts), 128))
    assert accuracy(noise, world.labels, world.concepts, method) < 0.25
