"""The two files of the concept vectors: written files are read back, and unsuitable ones are refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from agents.model.steering.concept_vectors import (
    CARD,
    LOOK_SECONDS,
    TENSORS,
    ConceptVectors,
    ConceptVectorsWatcher,
    read,
    write,
)
from corpus.errors import IntegrityFault


def some(hidden: int = 4, layers: tuple[int, ...] = (1, 3), seed: int = 0) -> ConceptVectors:
    values = np.random.default_rng(seed).normal(size=(len(layers), 2, hidden)).astype(np.float32)
    return ConceptVectors(concepts=("asking", "joy"), layers=layers, values=values, weights_version="w")


def test_written_vectors_are_read_back_and_any_safetensors_reader_loads_them(tmp_path: Path) -> None:
    written = some()
    write(tmp_path, written)
    vectors = read(tmp_path)
    assert vectors is not None and (vectors.concepts, vectors.layers) == (written.concepts, written.layers)
    assert np.array_equal(vectors.values, written.values) and vectors.digest == written.digest
    assert np.array_equal(load_file(tmp_path / TENSORS)["layer_3.vectors"], written.values[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == [CARD, TENSORS]


def test_without_files_there_are_no_vectors(tmp_path: Path) -> None:
    assert read(tmp_path) is None


@pytest.mark.parametrize(
    "change",
    [
        {"concepts": ["joy"]},
        {"concepts": ["joy", "joy"]},
        {"concepts": []},
        {"layers": [1, 2]},
        {"layers": []},
        {"layers": 1},
        {"layers": [1, 1]},
        {"hidden_size": 5},
        {"dtype": "bfloat16"},
    ],
)
def test_a_card_that_does_not_fit_the_tensors_is_refused_with_the_cure(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    write(tmp_path, some())
    card = tmp_path / CARD
    card.write_text(json.dumps({**json.loads(card.read_text()), **change}))
    with pytest.raises(IntegrityFault, match="delete it to have the vectors made again"):
        read(tmp_path)


def test_the_card_has_exactly_these_keys(tmp_path: Path) -> None:
    write(tmp_path, replace(some(), model="m", corpus_sha256="c"))
    assert json.loads((tmp_path / CARD).read_text()) == {
        "concepts": ["asking", "joy"],
        "layers": [1, 3],
        "hidden_size": 4,
        "dtype": "float32",
        "model": "m",
        "weights_version": "w",
        "corpus_sha256": "c",
    }


def test_vectors_of_another_model_stream_or_corpus_are_refused(tmp_path: Path) -> None:
    write(tmp_path, replace(some(), model="m", corpus_sha256="c"))
    vectors = read(tmp_path, model="m", hidden_size=4, corpus_sha256="c")
    assert vectors is not None and (vectors.model, vectors.corpus_sha256) == ("m", "c")
    for named in ({"model": "n"}, {"hidden_size": 5}, {"corpus_sha256": "d"}):
        with pytest.raises(IntegrityFault, match="delete it to have the vectors made again"):
            read(tmp_path, **named)  # type: ignore[arg-type]
    write(tmp_path, some())  # of an older version: nobody knows
    assert read(tmp_path, model="m", hidden_size=4, corpus_sha256="c") is not None


def test_vectors_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    broken = some()
    broken.values[0, 0, 0] = np.nan
    write(tmp_path, broken)
    with pytest.raises(IntegrityFault, match="not finite"):
        read(tmp_path)


def test_different_vectors_have_different_digests() -> None:
    assert len({some(seed=1).digest, some(seed=2).digest, some(seed=1, layers=(1, 2)).digest}) == 3


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Control the time in seconds that the watch sees."""
    now = [0.0]
    monkeypatch.setattr("agents.model.steering.concept_vectors.monotonic", lambda: now[0])
    return now


def test_new_or_replaced_vectors_are_loaded_at_the_next_check(tmp_path: Path, clock: list[float]) -> None:
    watched = ConceptVectorsWatcher(tmp_path, hidden_size=4, layers=4)
    assert watched.look() and watched.vectors is None and "the first night makes them" in watched.reason
    write(tmp_path, some())
    assert not watched.look() and watched.vectors is None  # too soon to look again
    clock[0] += LOOK_SECONDS
    assert watched.look() and watched.vectors is not None and not watched.reason
    clock[0] += LOOK_SECONDS
    assert not watched.look()
    write(tmp_path, some(seed=5))
    clock[0] += LOOK_SECONDS
    assert watched.look() and watched.vectors.digest == some(seed=5).digest


@pytest.mark.parametrize("other", [some(hidden=8), some(layers=(1, 4)), replace(some(), model="another")])
def test_vectors_of_another_model_are_not_used_and_the_reason_is_reported(
    tmp_path: Path, clock: list[float], other: ConceptVectors
) -> None:
    watched = ConceptVectorsWatcher(tmp_path, hidden_size=4, layers=4, model="m")
    write(tmp_path, other)
    assert watched.look() and watched.vectors is None and "another model's" in watched.reason
    (tmp_path / TENSORS).write_bytes(b"")
    clock[0] += LOOK_SECONDS
    assert watched.look() and watched.vectors is None and "cut short" in watched.reason
