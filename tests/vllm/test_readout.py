"""Readout at decode and steering on a real vLLM, compared with the trainer's own model of the weights."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import openai
import pytest
import torch
from conftest import Vllm, free_port, new_home, point_at, serving

from agents.model.steering.concept_vectors import ConceptVectors, write
from agents.model.vllm.served_directory import ServedDirectory
from agents.model.weights.shared import SharedWeights
from agents.model.weights.views import build
from agents.trainer.scoring.residual_stream import residuals
from corpus.recipe import MODEL_DIR

CONCEPTS, LAYERS, HIDDEN = ("asking", "guessing", "joy"), (2, 3), 128
CLOSE = 1e-3
TOKENS = 24
LONG = {"max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "logprobs": 0, "return_token_ids": True}
PROMPT = "Please book the bench for monday."
TALK = [{"role": "user", "content": "How should I begin?"}]
LOOK_S = 10.0


def planted(seed: int = 1) -> ConceptVectors:
    """Return random directions, one of them not of unit length."""
    values = np.random.default_rng(seed).normal(size=(len(LAYERS), len(CONCEPTS), HIDDEN)).astype(np.float32)
    values /= np.linalg.norm(values, axis=-1, keepdims=True)
    values[:, 2] *= 3
    return ConceptVectors(concepts=CONCEPTS, layers=LAYERS, values=values, weights_version="0" * 64)


def until(done: Callable[[], bool]) -> None:
    began = monotonic()
    while not done():
        assert monotonic() - began < LOOK_S, "it never came"
        sleep(0.05)


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    """A server that reads, whose vectors were written after its start."""
    place = tmp_path_factory.mktemp("readout")
    home, port = new_home(place / "home"), free_port()
    point_at(home, f"http://127.0.0.1:{port}", readout=True)
    with serving(home, place / "vllm.log", port=port) as running, running.http() as http:
        early = http.get("/v1/readout/manifest")
        assert early.status_code == 409 and "the first night makes them" in early.json()["error"]["message"]
        assert http.post("/v1/completions", json={"prompt": "hi", "max_tokens": 2}).json()["readout"] == []
        write(home.path / "readout", planted())
        until(lambda: http.get("/v1/readout/manifest").status_code == 200)
        until(
            lambda: (
                http.post("/v1/completions", json={"prompt": "hi", "max_tokens": 2}).json()["readout"] != []
            )
        )
        yield running


@pytest.fixture(scope="module")
def twin(reading: Vllm) -> Any:
    """Return the trainer's model of the weights that this server serves."""
    return build(SharedWeights.attach(ServedDirectory(reading.home.served_dir).weights_file), MODEL_DIR)


def ask(vllm: Vllm, prompt: Any = PROMPT, **more: Any) -> Any:
    with vllm.http() as http:
        answer = http.post("/v1/completions", json={"prompt": prompt, **LONG, **more})
        assert answer.status_code == 200, answer.text
        return answer.json()


def check_scores(twin: Any, choice: Any, readout: list[Any]) -> None:
    """Assert that the readings of one choice are projections of the trainer's residual stream."""
    prompt, answer = choice["prompt_token_ids"], choice["token_ids"]
    tokens = [*prompt, *answer[:-1]]
    stream = residuals(twin, [tokens[:end] for end in range(len(prompt), len(tokens) + 1)], LAYERS)
    wanted = torch.einsum("tlh,lch->tlc", stream, torch.from_numpy(planted().values))
    assert [entry["layer"] for entry in readout] == list(LAYERS)
    for at, entry in enumerate(readout):
        assert entry["tokens"] == len(answer) - 1
        for which, concept in enumerate(CONCEPTS):
            found = entry["scores"][concept]
            assert found["prompt"] == pytest.approx(float(wanted[0, at, which]), abs=CLOSE)
            assert found["mean"] == pytest.approx(float(wanted[1:, at, which].mean()), abs=CLOSE)
            assert found["last"] == pytest.approx(float(wanted[-1, at, which]), abs=CLOSE)


@contextmanager
def pushed(twin: Any, steer: dict[str, float]) -> Iterator[None]:
    """Steer the trainer's model by a plain hook."""
    at = planted().steered
    vectors = torch.from_numpy(planted().values[at])
    added = sum(
        s * vectors[CONCEPTS.index(name)] / vectors[CONCEPTS.index(name)].norm() for name, s in steer.items()
    )
    handle = twin.base_model.layers[LAYERS[at]].register_forward_hook(
        lambda module, inputs, output: output + added
    )
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def check_logprobs(twin: Any, choice: Any, steer: dict[str, float]) -> None:
    """Assert that the log-probabilities of this answer are those of the trainer's model, steered alike."""
    prompt, answer = choice["prompt_token_ids"], choice["token_ids"]
    with pushed(twin, steer):
        logits = twin(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
    wanted = torch.log_softmax(logits, dim=-1).gather(-1, torch.tensor(answer)[:, None])[:, 0]
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(wanted.tolist(), abs=CLOSE)


def test_the_manifest_names_concepts_and_layers(reading: Vllm) -> None:
    with reading.http() as http:
        told = http.get("/v1/readout/manifest").json()
    assert told["enabled"] and told["concepts"] == list(CONCEPTS) and told["layers"] == list(LAYERS)
    assert told["hidden_size"] == HIDDEN and told["weights_version"] == "0" * 64
    assert told["steering"]["layer"] == LAYERS[planted().steered]


def test_served_scores_equal_projections_of_the_trainers_residual_stream(reading: Vllm, twin: Any) -> None:
    answer = ask(reading)
    check_scores(twin, answer["choices"][0], answer["readout"])
    with reading.http() as http:
        assert http.get(f"/v1/readout/{answer['id']}").json() == {
            "id": answer["id"],
            "readout": answer["readout"],
        }
        assert http.get("/v1/readout/chatcmpl-of-nobody").status_code == 404


def test_answers_of_one_batch_are_not_mixed(reading: Vllm, twin: Any) -> None:
    prompts = ["Hello.", PROMPT, "Which day suits you best, monday or friday?", "No."]
    answer = ask(reading, prompts, n=2, temperature=1, seed=5)
    assert [entry["index"] for entry in answer["readout"]] == [index for index in range(8) for _ in LAYERS]
    for choice in answer["choices"]:
        check_scores(
            twin, choice, [entry for entry in answer["readout"] if entry["index"] == choice["index"]]
        )


def test_an_answer_that_ends_by_itself_is_read_to_its_end_and_no_further(reading: Vllm, twin: Any) -> None:
    """The engine may run one pass ahead, before it knows that the last token was the last."""
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(
                lambda seed: ask(reading, ignore_eos=False, temperature=1, seed=seed, max_tokens=60), range(8)
            )
        )
    assert any(answer["choices"][0]["finish_reason"] == "stop" for answer in answers)
    for answer in answers:
        if len(answer["choices"][0]["token_ids"]) > 1:
            check_scores(twin, answer["choices"][0], answer["readout"])


def test_openais_client_gets_the_readings_with_an_answer_and_at_the_end_of_a_stream(reading: Vllm) -> None:
    client = openai.OpenAI(base_url=f"{reading.url}/v1", api_key="none", max_retries=0)
    with client:
        [model] = client.models.list().data
        whole: Any = client.chat.completions.create(
            model=model.id, messages=TALK, max_tokens=8, temperature=0
        )  # type: ignore[arg-type]
        stream = client.chat.completions.create(
            model=model.id, messages=TALK, max_tokens=8, temperature=0, stream=True  # type: ignore[arg-type]
        )  # fmt: skip
        chunks: list[Any] = list(stream)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == whole.choices[0].message.content
    assert [hasattr(chunk, "readout") for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].id == chunks[0].id
    for ours, theirs in zip(chunks[-1].readout, whole.readout, strict=True):
        assert ours["tokens"] == theirs["tokens"] == whole.usage.completion_tokens - 1
        assert ours["scores"]["joy"] == pytest.approx(theirs["scores"]["joy"], abs=CLOSE)


def test_a_stream_is_events_that_end_with_done_after_the_readings(reading: Vllm) -> None:
    with reading.http() as http:
        asked = {"prompt": PROMPT, "stream": True, "stream_options": {"include_usage": True}, **LONG}
        with http.stream("POST", "/v1/completions", json=asked) as answer:
            events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
        kept = http.get(f"/v1/readout/{json.loads(events[0])['id']}").json()["readout"]
    assert events[-1] == "[DONE]"
    last = json.loads(events[-2])
    assert last["choices"] == [] and last["readout"] == kept and last["readout"][0]["tokens"] == TOKENS - 1
    assert json.loads(events[-3])["usage"]["completion_tokens"] == TOKENS


def test_a_request_may_opt_out_of_the_readout(reading: Vllm, twin: Any) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda number: ask(reading, readout=number % 2 == 0), range(6)))
    for number, answer in enumerate(answers):
        if number % 2 == 0:
            check_scores(twin, answer["choices"][0], answer["readout"])
        else:
            assert "readout" not in answer
            with reading.http() as http:
                assert http.get(f"/v1/readout/{answer['id']}").status_code == 404


@pytest.mark.parametrize("steer", [{"asking": 4.0}, {"joy": -2.5}, {"asking": 1.5, "guessing": -3}])
def test_steering_moves_log_probabilities_as_adding_the_vector_does(
    reading: Vllm, twin: Any, steer: dict[str, float]
) -> None:
    answer = ask(reading, steer=steer)
    check_logprobs(twin, answer["choices"][0], steer)
    with pushed(twin, steer):
        check_scores(twin, answer["choices"][0], answer["readout"])
    assert answer["choices"][0]["logprobs"] != ask(reading)["choices"][0]["logprobs"]


def test_steering_does_not_touch_other_requests(reading: Vllm, twin: Any) -> None:
    steers: list[dict[str, float]] = [
        {},
        {"asking": 4.0},
        {},
        {"joy": 3.0},
        {"joy": -3.0},
        {},
        {"guessing": 2.0},
        {},
    ]
    with ThreadPoolExecutor(len(steers)) as pool:
        answers = list(pool.map(lambda steer: ask(reading, **({"steer": steer} if steer else {})), steers))
    for steer, answer in zip(steers, answers, strict=True):
        check_logprobs(twin, answer["choices"][0], steer)


def test_no_strength_is_no_steering(reading: Vllm) -> None:
    plain = ask(reading)["choices"][0]["logprobs"]
    assert ask(reading, steer={"asking": 0})["choices"][0]["logprobs"] == plain
    assert ask(reading, steer={})["choices"][0]["logprobs"] == plain


def test_a_cached_prefix_serves_its_own_steering_only(reading: Vllm, twin: Any) -> None:
    prompt = [3 + number % 500 for number in range(300)]
    for steer in ({}, {"asking": 4.0}, {"asking": -4.0}, {}, {"asking": 4.0}):
        answer = ask(reading, prompt, max_tokens=4, **({"steer": steer} if steer else {}))
        check_logprobs(twin, answer["choices"][0], steer)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"steer": {"anger": 1.0}}, "there is no concept 'anger'; there are asking, guessing, joy"),
        ({"steer": {"joy": "much"}}, "not a finite number"),
        ({"steer": {"joy": True}}, "not a finite number"),
        ({"steer": {"joy": 1e9}}, "the most that is allowed"),
        ({"steer": ["joy"]}, "an object of concepts and strengths"),
        ({"steer": {"joy": 1.0}, "use_beam_search": True}, "beam search cannot be steered"),
        ({"readout": "yes"}, "readout is true or false"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_invalid_steering_request_is_refused_with_a_reason(
    reading: Vllm, more: dict[str, Any], sentence: str, stream: bool
) -> None:
    if stream and "use_beam_search" in more:
        return
    with reading.http() as http:
        plain = http.post("/v1/completions", json={"prompt": PROMPT, "stream": stream, **more})
        chat = http.post("/v1/chat/completions", json={"messages": TALK, "stream": stream, **more})
        endless = http.post("/v1/completions", content='{"prompt": "hi", "steer": {"joy": Infinity}}')
    assert plain.status_code == chat.status_code == endless.status_code == 400
    assert sentence in plain.json()["error"]["message"] and sentence in chat.json()["error"]["message"]


def test_new_vectors_are_taken_up_while_serving(reading: Vllm) -> None:
    other = planted(seed=2)
    try:
        write(reading.home.path / "readout", other)
        with reading.http() as http:
            until(lambda: http.get("/v1/readout/manifest").json()["vectors"] == other.digest)
        before = planted()
        until(lambda: ask(reading)["readout"][0]["scores"]["asking"]["prompt"] != before)
        write(
            reading.home.path / "readout",
            ConceptVectors(**{**vars(before), "values": before.values[:, :, :64].copy()}),
        )
        with reading.http() as http:
            until(
                lambda: (
                    "another model's"
                    in http.get("/v1/readout/manifest").json().get("error", {"message": ""})["message"]
                )
            )
            assert (
                "another model's"
                in http.post("/v1/completions", json={"prompt": "hi", "steer": {"joy": 1}}).text
            )
        until(lambda: ask(reading)["readout"] == [])
    finally:
        write(reading.home.path / "readout", planted())


def test_the_readout_is_off_by_default_and_steering_still_works(vllm: Vllm) -> None:
    assert "readout" not in ask(vllm)
    with vllm.http() as http:
        off = http.get("/v1/readout/manifest")
        assert off.status_code == 404 and "model.readout = true" in off.json()["error"]["message"]
        early = http.post("/v1/completions", json={"prompt": "hi", "steer": {"joy": 1}})
        assert early.status_code == 400 and "no concept vectors" in early.json()["error"]["message"]
        write(vllm.home.path / "readout", planted())
        until(
            lambda: (
                http.post("/v1/completions", json={"prompt": "hi", "steer": {"joy": 1}}).status_code == 200
            )
        )
    twin = build(SharedWeights.attach(ServedDirectory(vllm.home.served_dir).weights_file), MODEL_DIR)
    steered = ask(vllm, steer={"joy": 3.0})
    assert "readout" not in steered
    check_logprobs(twin, steered["choices"][0], {"joy": 3.0})
    check_logprobs(twin, ask(vllm)["choices"][0], {})


def test_without_eager_mode_the_readout_is_refused_once_in_the_log_and_vllm_serves_on(tmp_path: Path) -> None:
    home, port = new_home(tmp_path / "home"), free_port()
    point_at(home, f"http://127.0.0.1:{port}", readout=True)
    write(home.path / "readout", planted())
    arguments = (
        "--no-enforce-eager",
        "--compilation-config",
        '{"mode": 0}',
    )  # compiling takes minutes on a CPU
    with (
        serving(home, tmp_path / "vllm.log", port=port, arguments=arguments) as running,
        running.http() as http,
    ):
        assert (
            running.said().count("model.readout is on, but the residual stream is reached in eager mode only")
            == 1
        )
        plain = http.post("/v1/completions", json={"prompt": "hi", "max_tokens": 2})
        assert plain.status_code == 200 and "readout" not in plain.json()
        steered = http.post("/v1/completions", json={"prompt": "hi", "steer": {"joy": 1}})
        told = http.get("/v1/readout/manifest")
    assert (steered.status_code, told.status_code) == (400, 409)
    assert "--enforce-eager" in steered.json()["error"]["message"] and "--enforce-eager" in told.text
