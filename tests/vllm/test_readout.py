"""Readout at decode and steering, on a real vLLM: held against the trainer's own model of the same weights."""

import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Vllm, free_port, new_home, point_at, serving

from agents.model.mapping import SharedWeights
from agents.model.vectors_file import Vectors, write
from agents.model.views import build
from agents.model.vllm.place import Place
from agents.trainer.frozen import residuals
from corpus.recipe import MODEL_DIR

CONCEPTS, LAYERS, HIDDEN = ("asking", "guessing", "joy"), (2, 3), 128
CLOSE = 1e-3
LONG = {"max_tokens": 24, "temperature": 0, "ignore_eos": True}


def planted(seed: int = 1) -> Vectors:
    """Directions of no meaning, and one that is not of unit length."""
    values = np.random.default_rng(seed).normal(size=(len(LAYERS), len(CONCEPTS), HIDDEN)).astype(np.float32)
    values /= np.linalg.norm(values, axis=-1, keepdims=True)
    values[:, 2] *= 3
    return Vectors(concepts=CONCEPTS, layers=LAYERS, values=values, weights_version="0" * 64)


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    """A server that reads."""
    place = tmp_path_factory.mktemp("readout")
    home, port = new_home(place / "home"), free_port()
    point_at(home, f"http://127.0.0.1:{port}", readout=True)
    with serving(home, place / "vllm.log", port=port) as running, running.http() as http:
        assert http.get("/v1/readout/manifest").status_code == 409  # before the first night
        write(home.path / "readout", planted())
        yield running


@pytest.fixture(scope="module")
def twin(reading: Vllm) -> Any:
    """The trainer's model of the weights that this server serves."""
    return build(SharedWeights.attach(Place(reading.home.served_dir).mapping), MODEL_DIR)


def ask(vllm: Vllm, prompt: str | list[int], **more: Any) -> Any:
    with vllm.http() as http:
        answer = http.post("/v1/completions", json={"prompt": prompt, "return_token_ids": True, **LONG, **more})
        assert answer.status_code == 200, answer.text
        return answer.json()


def expected(twin: Any, tokens: list[int], upto: int) -> torch.Tensor:
    """Scores of every token from number `upto - 1` on: (tokens, layers, concepts)."""
    rows = [tokens[: length + 1] for length in range(upto - 1, len(tokens))]
    stream = residuals(twin, rows, LAYERS)
    return torch.einsum("tlh,lch->tlc", stream, torch.from_numpy(planted().values))


def check(twin: Any, prompt: list[int], answer: list[int], readout: list[Any]) -> None:
    wanted = expected(twin, [*prompt, *answer[:-1]], len(prompt))
    for at, entry in enumerate(readout):
        assert entry["layer"] == LAYERS[at] and entry["tokens"] == len(answer) - 1
        for which, concept in enumerate(CONCEPTS):
            found = entry["scores"][concept]
            assert found["prompt"] == pytest.approx(float(wanted[0, at, which]), abs=CLOSE)
            assert found["mean"] == pytest.approx(float(wanted[1:, at, which].mean()), abs=CLOSE)
            assert found["last"] == pytest.approx(float(wanted[-1, at, which]), abs=CLOSE)


def test_served_scores_are_the_projections_of_the_trainers_residual_stream(reading: Vllm, twin: Any) -> None:
    answer = ask(reading, "Please book the bench for monday.")
    choice = answer["choices"][0]
    assert len(choice["token_ids"]) == 24
    check(twin, choice["prompt_token_ids"], choice["token_ids"], answer["readout"])
