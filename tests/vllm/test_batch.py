"""The batch routes on a real vLLM, with the embedded server's requests and answers."""

import json
from time import monotonic, sleep
from typing import Any

import httpx
import pytest
from conftest import Vllm
from transformers import AutoTokenizer

from agents.model.embedded.chat import ChatTokenizer
from agents.model.vllm.routes.batch import _Templated
from agents.model.vllm.served_directory import ServedDirectory
from agents.model.weights.shared import SharedWeights
from corpus.recipe import MODEL_DIR

ASKED = [
    [{"role": "user", "content": text}] for text in ("How should I begin?", "Is <|im_end|> a word?", "hello")
]


@pytest.fixture(scope="session")
def text() -> ChatTokenizer:
    return ChatTokenizer(AutoTokenizer.from_pretrained(MODEL_DIR))


def batch(vllm: Vllm, **more: Any) -> Any:
    """Return the answer to a batch of ASKED."""
    with vllm.http() as http:
        answer = http.post("/v1/batch/chat", json={"conversations": ASKED, "max_tokens": 40, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(vllm: Vllm, path: str, **body: Any) -> str:
    """Return the reason that this is refused with."""
    with vllm.http() as http:
        answer = http.post(path, json=body)
    assert answer.status_code == 400, answer.text
    return str(answer.json()["error"]["message"])


def test_a_batch_is_answered_in_the_embedded_servers_form(vllm: Vllm, text: ChatTokenizer) -> None:
    version = SharedWeights.attach(ServedDirectory(vllm.home.served_dir).weights_file).version
    found = batch(vllm, temperature=[0, 1.0, 0.5], seeds=[1, 2**63, 2**64 - 1])
    assert found.keys() == {"results", "model", "weights_version", "weights_version_end"}
    assert (found["weights_version"], found["weights_version_end"]) == (version, version)
    for one in found["results"]:
        assert one.keys() == {"text", "token_ids", "finish_reason"}
        assert one["text"] == text.decode(one["token_ids"])
        assert one["finish_reason"] == ("stop" if one["token_ids"][-1] in ends(text) else "length")
    assert any(one["finish_reason"] == "stop" for one in found["results"])


def ends(text: ChatTokenizer) -> list[int]:
    return text.encode_markup("<|im_end|>")


def test_the_same_seeds_give_the_same_answers_and_others_give_others(vllm: Vllm) -> None:
    first, again, other = (batch(vllm, temperature=2, seeds=[seed] * 3) for seed in (5, 5, 6))
    assert first["results"] == again["results"] != other["results"]


def test_a_stop_string_ends_an_answer_before_itself(vllm: Vllm, text: ChatTokenizer) -> None:
    whole = batch(vllm, temperature=0)["results"][0]["text"]
    stop = whole[4:9]
    met = batch(vllm, temperature=0, stop=[stop])["results"][0]
    assert met["text"] == whole[: whole.index(stop)] and met["finish_reason"] == "stop"
    assert stop in text.decode(met["token_ids"])


def test_tokens_are_those_of_the_embedded_server_and_texts_stay_data(vllm: Vllm, text: ChatTokenizer) -> None:
    with vllm.http() as http:
        found = http.post("/v1/batch/tokenize", json={"conversations": ASKED}).json()["tokens"]
        data = http.post("/v1/batch/tokenize", json={"texts": ["a <|im_end|>"]}).json()["tokens"]
    assert found == [text.encode_chat(one) for one in ASKED]
    assert data == [text.encode("a <|im_end|>")]
    assert not set(data[0]) & set(ends(text))


def test_the_users_next_turn_can_be_generated(vllm: Vllm) -> None:
    with vllm.http() as http:
        asked = {"conversations": [[], ASKED[0]], "role": "user", "max_tokens": 5}
        found = http.post("/v1/batch/chat", json=asked)
    assert len(found.json()["results"]) == 2


def test_a_text_is_continued_and_each_row_has_its_own_cuts_and_stops(vllm: Vllm) -> None:
    greedy, by_min, by_top = batch(vllm, temperature=[0, 1, 1], min_p=[0, 1, 0], top_p=[1, 1, 1e-6],
                                   conversations=ASKED[:1] * 3)["results"]  # fmt: skip
    assert greedy["token_ids"] == by_min["token_ids"] == by_top["token_ids"]
    stop = greedy["text"][4:9]
    rows = {"conversations": [ASKED[0], ASKED[0], []], "raw": [None, None, "How should"]}
    stopped, free, text = batch(vllm, temperature=0, stops=[[stop], [], []], **rows)["results"]
    assert stopped["text"] == greedy["text"][: greedy["text"].index(stop)] and free == greedy
    assert text["token_ids"] and text["token_ids"] != greedy["token_ids"]


def test_an_invalid_batch_is_refused_with_a_reason(vllm: Vllm) -> None:
    long = [[{"role": "user", "content": "begin " * 600}]]
    assert "shorten the prompt" in refused(vllm, "/v1/batch/chat", conversations=long)
    assert "1 to 4096" in refused(vllm, "/v1/batch/chat", conversations=[ASKED[0]] * 4097)
    assert "role" in refused(vllm, "/v1/batch/chat", conversations=ASKED, role="system")
    assert "temperature" in refused(vllm, "/v1/batch/chat", conversations=ASKED, temperature=5)
    assert "1 to 4096" in refused(vllm, "/v1/batch/tokenize", conversations=[])
    with vllm.http() as http:
        answer = http.post("/v1/batch/chat", json={"conversations": ASKED, "model": "another"})
        assert (answer.status_code, http.post("/v1/batch/chat", content=b"{").status_code) == (404, 400)


def running(vllm: Vllm) -> float:
    """Return the number of requests in the engine, by vLLM's own count."""
    with vllm.http() as http:
        lines = http.get("/metrics").text.splitlines()
    names = ("vllm:num_requests_running{", "vllm:num_requests_waiting{")
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(names))


def wait_for(vllm: Vllm, busy: bool) -> float:
    """Wait until the engine has work, or has none; return the most requests that were seen meanwhile."""
    deadline, most = monotonic() + 30, 0.0
    while bool(now := running(vllm)) is not busy:
        most = max(most, now)
        assert monotonic() < deadline, f"{now} requests"
        sleep(0.05)
    return max(most, now)


def test_rows_leave_seats_for_users_and_are_aborted_when_their_client_disconnects(vllm: Vllm) -> None:
    """4096 answers of 400 tokens would take minutes."""
    asked = {"conversations": [ASKED[0]] * 4096, "max_tokens": 400, "temperature": 1}
    with pytest.raises(httpx.ReadTimeout), vllm.http() as http:
        http.post("/v1/batch/chat", json=asked, timeout=3)
    most = wait_for(vllm, busy=False)
    assert most <= 8, "half of --max-num-seqs"
    assert len(batch(vllm, temperature=0)["results"]) == len(ASKED)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # vLLM's, when it is imported
def test_tools_reach_the_template_as_vllms_chat_route_writes_them() -> None:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    tokenizer.chat_template = "{{ tools | tojson }}{{ messages[0].content }}"
    text = ChatTokenizer(_Templated(tokenizer, {}))
    tool = {"function": {"name": "look", "parameters": {"type": "object"}}, "type": "function"}
    route = ChatCompletionRequest(model="m", messages=ASKED[0], tools=[tool])
    assert route.tools is not None
    expected = json.dumps([one.model_dump() for one in route.tools], ensure_ascii=False)
    assert '"description": null' in expected
    assert text.decode(text.encode_chat(ASKED[0], tools=[tool])) == expected + ASKED[0][0]["content"]
