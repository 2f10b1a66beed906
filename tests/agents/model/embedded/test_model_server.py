"""The embedded server as a process: its answers, its weights, its start and its end."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors.torch import load_file

from agents.model.client import Prompt, open_client
from agents.model.weights.shared import SharedWeights
from agents.model.weights.snapshot import to_raw
from corpus.errors import ModelUnavailable
from store.checkpoints.store import CheckpointStore

TOKEN = "a-token-that-is-long-enough-to-pass"
HELLO: dict[str, Any] = {
    "messages": [{"role": "user", "content": "how are you?"}],
    "max_tokens": 12,
    "seed": 7,
}

WRITER = """
import sys
from pathlib import Path
from agents.model.weights.shared import SharedWeights
shared = SharedWeights.attach(Path(sys.argv[1]))
view = shared.tensors["model.layers.0.self_attn.q_proj.weight"]
before = view.clone()
for line in sys.stdin:
    if line == "write\\n":
        view.mul_(-3.0)
    else:
        view.copy_(before)
    print(shared.bump(), flush=True)
"""

CHILD = """
import os, signal, subprocess, sys
command = "from agents.model.process import die_with_parent; import os, signal;"
command += "die_with_parent(int({!r})); os.write(1, b'x'); signal.pause()".format(str(os.getpid()))
subprocess.Popen([sys.executable, "-c", command])
signal.pause()
"""


def chat(http: httpx.Client, **more: Any) -> Any:
    """Request the answer to a fixed question."""
    answer = http.post("/v1/chat/completions", json=HELLO | more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_chat_answer_has_openais_form_and_is_deterministic_for_a_seed(server: Any) -> None:
    with server.http() as http:
        first, second, other = chat(http), chat(http), chat(http, seed=8)
        assert first["choices"] == second["choices"] != other["choices"]
        assert first["object"] == "chat.completion"
        assert first["choices"][0]["message"]["role"] == "assistant"
        assert first["usage"]["completion_tokens"] == 12
        assert first["usage"]["total_tokens"] == 12 + first["usage"]["prompt_tokens"]
        several = chat(http, n=3, seed=7)["choices"]
        assert [choice["index"] for choice in several] == [0, 1, 2]
        assert len({choice["message"]["content"] for choice in several}) == 3


def test_a_stream_carries_the_same_answer_and_ends_with_done(server: Any) -> None:
    with server.http() as http:
        whole = chat(http)
        lines = http.post("/v1/chat/completions", json=HELLO | {"stream": True}).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    deltas = [event["choices"][0]["delta"].get("content", "") for event in events]
    assert "".join(deltas) == whole["choices"][0]["message"]["content"]
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    assert events[-1]["usage"] == whole["usage"]


def test_completions_take_texts_and_tokens_each_with_its_seed(server: Any) -> None:
    with server.http() as http:

        def complete(prompt: object, **more: object) -> Any:
            body = {"prompt": prompt, "max_tokens": 5, "return_token_ids": True} | more
            return http.post("/v1/completions", json=body).json()["choices"]

        texts = complete(["how", "are you", "how"], seeds=[1, 2, 1])
        assert texts[0] | {"index": 2} == texts[2]
        ids = [choice["prompt_token_ids"] for choice in texts]
        assert complete(ids, seeds=[1, 2, 1]) == texts
        assert complete("how", seed=1)[0]["prompt_token_ids"] == ids[0]
        assert complete(ids[0], seed=1) == complete("how", seed=1)
        # A seed alone counts up, row by row.
        assert complete(["how", "are you"], seed=4) == complete(["how", "are you"], seeds=[4, 5])


def test_tokens_are_returned_for_a_text_for_messages_and_for_many_conversations(server: Any) -> None:
    with server.http() as http:

        def tokens(path: str = "/tokenize", **body: object) -> Any:
            return http.post(path, json=body).json()["tokens"]

        messages = HELLO["messages"]
        opened, closed = tokens(messages=messages), tokens(messages=messages, add_generation_prompt=False)
        assert opened[: len(closed)] == closed
        assert tokens("/v1/batch/tokenize", conversations=[messages, messages]) == [opened, opened]
        assert tokens(prompt="<|im_start|>") == [1]
        assert 1 not in tokens("/v1/batch/tokenize", texts=["<|im_start|>"])[0]


def test_unknown_models_and_paths_get_a_404(server: Any) -> None:
    with server.http() as http:
        assert http.post("/v1/chat/completions", json=HELLO | {"model": "gpt"}).status_code == 404
        assert chat(http, model="nightschool")["model"] == "tiny"
        assert http.get("/v1/nothing").json()["error"]["message"] == "GET /v1/nothing is not served here"
        assert http.get("/v1/completions").status_code == 405


def test_another_process_writes_the_served_weights_and_restores_them_exactly(server: Any) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(server.run_dir / "weights.bin")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with server.http() as http, writer:
        assert writer.stdin and writer.stdout

        def order(word: str) -> int:
            assert writer.stdin and writer.stdout
            writer.stdin.write(word + "\n")
            writer.stdin.flush()
            return int(writer.stdout.readline())

        before = chat(http)
        version = order("write")
        during = chat(http)
        assert during["choices"] != before["choices"]
        assert during["weights_version"] == version == before["weights_version"] + 1
        order("restore")
        assert chat(http)["choices"] == before["choices"]
        assert http.get("/v1/models").json()["data"][0]["weights_version"] == version + 1
        writer.stdin.close()


def test_every_parameter_is_served_from_shared_memory_and_tied_ones_stay_tied(
    server: Any, model_dir: Path
) -> None:
    shared = SharedWeights.attach(server.run_dir / "weights.bin")
    stored = load_file(model_dir / "model.safetensors")
    assert set(shared.tensors) == {*stored, "lm_head.weight"}
    assert all(shared.tensors[name].equal(tensor) for name, tensor in stored.items())
    head, embedding = (shared.tensors[name] for name in ("lm_head.weight", "model.embed_tokens.weight"))
    assert head.data_ptr() == embedding.data_ptr()
    assert shared.model == str(model_dir)
    assert (server.run_dir / "weights.bin").stat().st_mode & 0o77 == 0
    assert server.socket.stat().st_mode & 0o77 == 0


@pytest.mark.anyio
async def test_a_server_of_other_weights_reports_them_and_ends_mid_batch_without_leftovers(
    start_server: Any, server: Any, model_dir: Path, tmp_path: Path
) -> None:
    tensors = {name: to_raw(-tensor) for name, tensor in load_file(model_dir / "model.safetensors").items()}
    written = CheckpointStore(tmp_path / "checkpoints").write(tensors, None, {})
    other = start_server("--checkpoints", str(tmp_path / "checkpoints"), "--holds", written.id)
    with other.http() as http, server.http() as usual:
        assert chat(http)["choices"] != chat(usual)["choices"]
    async with open_client(token=TOKEN, socket=other.socket) as client:
        served = await client.served_model()
        assert (served.weights_held, served.weights_dirty) == (written.id, False)
        long = Prompt(messages=HELLO["messages"], seed=1, temperature=5.0, max_tokens=400)
        batch = asyncio.create_task(client.batch_chat([long] * 1000))
        while not (await client.metrics())["nightschool_batch_requests_running"]:
            pass
        other.process.send_signal(signal.SIGTERM)
        with pytest.raises(ModelUnavailable):
            await batch
    assert other.process.wait(5) == 0
    assert {path.name for path in other.run_dir.iterdir()} == {"token", "out", "err"}
    assert (other.run_dir / "out").read_bytes() == (other.run_dir / "err").read_bytes() == b""


def test_a_server_that_cannot_start_reports_the_reason_and_leaves_nothing_behind(
    model_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    checkpoints = tmp_path / "checkpoints"
    command = [sys.executable, "-m", "agents.model.embedded.server", "--run-dir", str(tmp_path)]
    command += ["--checkpoints", str(checkpoints), "--holds", "0" * 64]
    command += ["--model", str(model_dir), "--token-file", str(tmp_path / "token")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 12
    assert ended.stdout == ""
    assert ended.stderr.startswith(
        f"{checkpoints}/{'0' * 64}.json is missing; roll back to another checkpoint"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"token"}


def test_a_child_dies_with_its_parent_however_the_parent_dies() -> None:
    ours, theirs = os.pipe()
    parent = subprocess.Popen([sys.executable, "-c", CHILD], stdout=theirs)
    os.close(theirs)
    with os.fdopen(ours, "rb", buffering=0) as pipe:
        assert pipe.read(1) == b"x"
        parent.kill()
        parent.wait(10)
        # The pipe ends when the last process that holds it has ended.
        assert pipe.read() == b""


def test_a_child_whose_parent_has_gone_does_not_start() -> None:
    command = "from agents.model.process import die_with_parent; die_with_parent(1 << 22)"
    ended = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, timeout=30)
    assert ended.returncode == 1
    assert "the parent process has ended" in ended.stderr


def test_the_client_needs_no_torch() -> None:
    code = "import sys, agents.model.client, agents.model.http_auth, agents.model.safety;"
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'tokenizers', 'numpy')))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_an_abandoned_stream_frees_its_thread_and_logs_nothing(server: Any) -> None:
    with server.http() as http:
        body = HELLO | {"stream": True, "max_tokens": 450, "temperature": 5.0}
        with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert next(answer.iter_lines()).startswith("data: ")
    with server.http() as http:
        while "nightschool_user_requests_running 0" not in http.get("/metrics").text:
            pass
        chat(http)
    assert (server.run_dir / "err").read_bytes() == b""
