"""Steering on the embedded server: rows that move, rows that must not change by a bit, and refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.model.embedded.activation_steering import Offsets
from agents.model.embedded.decoder import DecoderForward
from agents.model.embedded.forward import Forward, TransformersForward
from agents.model.embedded.passes import Part
from agents.model.steering.concept_vectors import ConceptVectors, write

HIDDEN, CONCEPTS = 64, ("asking", "joy")
TALK: dict[str, Any] = {
    "messages": [{"role": "user", "content": "how are you?"}],
    "max_tokens": 12,
    "seed": 7,
}
PROMPTS = [[5, 9, 77, 30], [40] * 30, [8, 8, 9], [100, 101, 102, 7, 7, 7]]
STRONG = 40.0


def planted(
    seed: int, concepts: tuple[str, ...] = CONCEPTS, layers: tuple[int, ...] = (0,)
) -> ConceptVectors:
    """Return arbitrary directions that are not of unit length."""
    values = np.random.default_rng(seed).normal(size=(len(layers), len(concepts), HIDDEN)).astype(np.float32)
    return ConceptVectors(concepts=concepts, layers=layers, values=values, weights_version="0" * 64)


def unit(vectors: ConceptVectors, concept: str) -> torch.Tensor:
    row = vectors.values[vectors.steered, vectors.concepts.index(concept)]
    return torch.from_numpy(row / np.linalg.norm(row))


@pytest.fixture(scope="module")
def readout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("home") / "readout"
    write(directory, planted(1))
    write(directory / "behaviours", planted(2, ("brief",), (1,)))
    return directory


@pytest.fixture(scope="module")
def steered(start_server: Any, readout: Path) -> Any:
    return start_server("--readout", str(readout))


def chat(server: Any, **more: Any) -> Any:
    with server.http() as http:
        answer = http.post("/v1/chat/completions", json=TALK | more)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"]


def logits_of(forward: Forward, offsets: list[Offsets]) -> list[torch.Tensor]:
    """Return the logits after the prompts, and after two more tokens, the second without the first row."""
    taken = [forward.open(64, own) for own in offsets or [None] * len(PROMPTS)]
    rows = [row for row in taken if row is not None]
    first = forward.read([Part(row, prompt, 0, True) for row, prompt in zip(rows, PROMPTS, strict=True)])
    after = [
        [Part(row, [11 + more + place], len(PROMPTS[place]) + more, True) for place, row in enumerate(rows)]
        for more in (0, 1)
    ]
    return [first, forward.read(after[0]), forward.read(after[1][1:])]


@torch.inference_mode()
@pytest.mark.parametrize("kind", [DecoderForward, TransformersForward])
@pytest.mark.parametrize("layer", [0, 1])
def test_a_row_is_moved_as_by_its_own_hook_and_its_neighbours_do_not_change_by_a_bit(
    model: Any, kind: Any, layer: int
) -> None:
    added = STRONG * unit(planted(1), "joy")
    plain, pushed = (logits_of(kind(model), offsets) for offsets in ([], [{}, {layer: added}, {}, {}]))
    handle = model.model.layers[layer].register_forward_hook(lambda module, inputs, output: output + added)
    try:
        hooked = logits_of(TransformersForward(model), [])
    finally:
        handle.remove()
    for one, two, three, others, at in zip(
        plain, pushed, hooked, ([0, 2, 3], [0, 2, 3], [1, 2]), (1, 1, 0), strict=True
    ):
        assert torch.equal(one[others], two[others])
        assert not torch.allclose(one[at], two[at], atol=1e-2)
        torch.testing.assert_close(two[at], three[at], atol=5e-5, rtol=0)


def test_a_steered_answer_differs_and_is_the_same_as_a_stream(steered: Any) -> None:
    plain, moved = chat(steered), chat(steered, steer={"joy": STRONG})
    assert moved != plain and moved == chat(steered, steer={"joy": STRONG})
    assert chat(steered, steer={"joy": -STRONG}) not in (plain, moved)
    assert chat(steered, steer={"brief": STRONG}) not in (plain, moved)
    with steered.http() as http:
        lines = http.post("/v1/chat/completions", json=TALK | {"stream": True, "steer": {"joy": STRONG}}).text
    events = [
        json.loads(line.removeprefix("data: ")) for line in lines.split("\n\n") if line.startswith("data: {")
    ]
    said_so = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    assert said_so == moved[0]["message"]["content"]


def test_a_strength_of_zero_does_not_steer(steered: Any, server: Any) -> None:
    plain = chat(server)
    assert (
        plain
        == chat(steered)
        == chat(steered, steer={})
        == chat(steered, steer={"joy": 0})
        == chat(steered, steer=None)
    )


def test_the_rows_of_a_batch_are_steered_separately(steered: Any) -> None:
    talk = {"conversations": [TALK["messages"]] * 3, "seeds": [1, 2, 3], "max_tokens": 12}
    with steered.http() as http:
        plain, all_moved, second_moved = (
            http.post("/v1/batch/chat", json=talk | {"steer": steer}).json()["results"]
            for steer in (None, {"joy": STRONG}, [None, {"joy": STRONG}, {}])
        )
        completed = [
            http.post("/v1/completions", json={"prompt": "hi", "seed": 1, "steer": steer}).json()["choices"]
            for steer in (None, {"joy": STRONG})
        ]
    assert [second_moved[0], second_moved[2]] == [plain[0], plain[2]]
    assert second_moved[1] == all_moved[1] != plain[1]
    assert completed[0] != completed[1]


@pytest.mark.parametrize(
    ("steer", "sentence"),
    [
        (
            {"anger": 1.0},
            "there is no concept 'anger'; there are asking, joy, brief. `nightschool readout train`",
        ),
        ({"joy": "much"}, "not a finite number"),
        ({"joy": True}, "not a finite number"),
        ({"joy": 1e9}, "the most that is allowed"),
        (["joy"], "an object of concepts and strengths"),
        ("joy", "an object of concepts and strengths"),
    ],
)
def test_an_invalid_steering_request_is_refused_with_a_sentence(
    steered: Any, steer: Any, sentence: str
) -> None:
    with steered.http() as http:
        chat = http.post("/v1/chat/completions", json=TALK | {"steer": steer})
        plain = http.post("/v1/completions", json={"prompt": "hi", "steer": steer})
        many = http.post("/v1/batch/chat", json={"conversations": [TALK["messages"]], "steer": [steer]})
        few = http.post("/v1/batch/chat", json={"conversations": [TALK["messages"]], "steer": [{}, {}]})
    for answer in (chat, plain, many):
        assert answer.status_code == 400 and sentence in answer.json()["error"]["message"]
    assert few.status_code == 400 and "one for each conversation" in few.json()["error"]["message"]


def test_without_vectors_the_error_has_the_cure_and_new_vectors_are_used_at_once(
    start_server: Any, tmp_path: Path
) -> None:
    server = start_server("--readout", str(tmp_path / "readout"))
    with server.http() as http:

        def asked() -> Any:
            return http.post("/v1/chat/completions", json=TALK | {"steer": {"joy": STRONG}})

        none = asked()
        assert none.status_code == 400 and "`nightschool readout train`" in none.json()["error"]["message"]
        write(tmp_path / "readout", planted(1))
        first = asked().json()["choices"]
        write(tmp_path / "readout", planted(3))
        assert asked().json()["choices"] != first


def test_the_layer_at_two_thirds_of_a_files_layers_is_steered() -> None:
    places = {count: planted(1, layers=tuple(range(count))).steered for count in (1, 2, 4, 28)}
    assert places == {1: 0, 2: 0, 4: 2, 28: 18}
