"""The prefix cache follows the weights: keys and values of other weights are not reused."""

from collections.abc import Iterator
from time import monotonic, sleep
from typing import Any
from uuid import uuid4

import pytest
from conftest import Vllm

from agents.model.vllm.served_directory import ServedDirectory
from agents.model.weights.header import writer_lock
from agents.model.weights.shared import SharedWeights

PROMPT = [5 + n % 200 for n in range(300)]
"""Token ids: two blocks of 128 that can be cached, and a rest."""
BLOCKS = 256
"""Tokens that a second request with this prompt reuses."""
SALT_S = 10.0
"""The default of `model.salt_seconds`."""
SEEN_S = 60.0
"""Longest wait for the server's counters."""


@pytest.fixture
def shared(vllm: Vllm) -> Iterator[SharedWeights]:
    """The shared weights, with this test as their writer; restored afterwards."""
    shared = SharedWeights.attach(ServedDirectory(vllm.home.served_dir).weights_file)
    before = {name: tensor.clone() for name, tensor in shared.tensors.items()}
    held = shared.holds
    with writer_lock(shared.path, wait=True):
        yield shared
        for name, tensor in before.items():
            shared.tensors[name].copy_(tensor)
        shared.bump()
        shared.holds, shared.dirty = held, False


def edit(shared: SharedWeights) -> None:
    """Change the weights without a new version."""
    name = next(name for name in shared.tensors if "layers.0.self_attn.v_proj" in name)
    shared.tensors[name].mul_(1.5)


def counted(http: Any, name: str) -> float:
    """Return one of the server's counters."""
    lines = http.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"vllm:{name}_total{{"))


def ask(vllm: Vllm, **more: Any) -> tuple[Any, int]:
    """Return the log-probabilities after `PROMPT`, and the number of its tokens that came from the cache."""
    asked = {"prompt": PROMPT, "max_tokens": 4, "temperature": 0, "logprobs": 0, "ignore_eos": True, **more}
    with vllm.http() as http:
        before = {name: counted(http, name) for name in ("prefix_cache_queries", "prefix_cache_hits")}
        answer = http.post("/v1/completions", json=asked)
        assert answer.status_code == 200, answer.text
        began = monotonic()
        while counted(http, "prefix_cache_queries") - before["prefix_cache_queries"] < len(PROMPT):
            assert monotonic() - began < SEEN_S
            sleep(0.05)
        hits = counted(http, "prefix_cache_hits") - before["prefix_cache_hits"]
    return answer.json()["choices"][0]["logprobs"]["token_logprobs"], int(hits)


def truth(vllm: Vllm) -> Any:
    """Return the answer of the current weights to the prompt, with a salt that is new."""
    logprobs, hits = ask(vllm, cache_salt=uuid4().hex)
    assert hits == 0
    return logprobs


def test_a_new_salt_keeps_prefixes_of_other_weights_from_being_reused(
    vllm: Vllm, shared: SharedWeights
) -> None:
    shared.bump()
    cold, warm = ask(vllm), ask(vllm)
    assert (cold[1], warm[1]) == (0, BLOCKS)
    assert warm[0] == pytest.approx(cold[0], abs=1e-4)
    edit(shared)
    edited = truth(vllm)
    stale, found = ask(vllm)
    assert found == BLOCKS
    assert max(abs(a - b) for a, b in zip(stale, edited, strict=True)) > 0.01
    shared.bump()
    after, found = ask(vllm)
    assert found == 0
    assert after == edited


def test_prefixes_are_reused_between_updates_and_for_an_interval_within_one(
    vllm: Vllm, shared: SharedWeights
) -> None:
    shared.bump()
    assert (ask(vllm)[1], ask(vllm)[1]) == (0, BLOCKS)
    shared.dirty, shared.holds = True, ""  # an update starts
    shared.bump()
    began = monotonic()
    assert ask(vllm)[1] == 0
    for _ in range(3):
        shared.bump()  # a step
        hits = ask(vllm)[1]
        assert hits == BLOCKS or monotonic() - began > SALT_S
    shared.holds = "ab" * 32  # it ends
    assert (ask(vllm)[1], ask(vllm)[1]) == (0, BLOCKS)
    shared.holds = ""  # it is undone
    shared.bump()
    shared.holds, shared.dirty = "cd" * 32, False
    assert (ask(vllm)[1], ask(vllm)[1]) == (0, BLOCKS)


def test_a_users_own_salt_counts_as_well(vllm: Vllm, shared: SharedWeights) -> None:
    shared.bump()
    mine, yours = {"cache_salt": uuid4().hex}, {"cache_salt": uuid4().hex}
    assert (ask(vllm, **mine)[1], ask(vllm, **mine)[1], ask(vllm, **yours)[1]) == (0, BLOCKS, 0)
    shared.bump()
    assert ask(vllm, **mine)[1] == 0


def test_a_chat_reuses_no_prefix_of_other_weights(vllm: Vllm, shared: SharedWeights) -> None:
    words = "how should i begin " * 60
    asked = {
        "messages": [{"role": "user", "content": words}],
        "max_tokens": 2,
        "temperature": 0,
        "logprobs": True,
    }

    def logprob() -> float:
        with vllm.http() as http:
            answer = http.post("/v1/chat/completions", json=asked).json()
            assert answer["usage"]["prompt_tokens"] > 2 * 128, answer["usage"]
        return float(answer["choices"][0]["logprobs"]["content"][0]["logprob"])

    before = logprob()
    edit(shared)
    assert logprob() == pytest.approx(before, abs=0.005)  # the prefix is that of the old weights
    shared.bump()
    assert abs(logprob() - before) > 0.01
