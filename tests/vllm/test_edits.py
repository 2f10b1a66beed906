"""Weights that another process writes are the weights that vLLM serves."""

from typing import Any

import pytest
import torch
from conftest import Vllm

from agents.model.vllm.served_directory import ServedDirectory
from agents.model.weights.shared import SharedWeights

ASKED = {"messages": [{"role": "user", "content": "How should I begin?"}], "max_tokens": 6, "temperature": 0}


@pytest.fixture
def shared(vllm: Vllm) -> SharedWeights:
    return SharedWeights.attach(ServedDirectory(vllm.home.served_dir).weights_file)


def logprobs(vllm: Vllm) -> Any:
    """Return the server's answer to a prompt whose prefix it has not cached."""
    with vllm.http() as http:
        answer = http.post("/v1/chat/completions", json=ASKED | {"logprobs": True, "ignore_eos": True})
        return [(one["token"], one["logprob"]) for one in answer.json()["choices"][0]["logprobs"]["content"]]


@pytest.mark.parametrize(
    "part", ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj", "embed_tokens", "norm"]
)
def test_an_edit_from_outside_changes_the_answers_and_undoing_it_restores_them_exactly(
    vllm: Vllm, shared: SharedWeights, part: str
) -> None:
    name = next(name for name in shared.tensors if part in name)
    before, kept = logprobs(vllm), shared.tensors[name].clone()
    generator = torch.Generator().manual_seed(1)
    shared.tensors[name].add_(torch.randn(kept.shape, generator=generator) * kept.std().clamp(min=0.1))
    shared.bump()
    edited = logprobs(vllm)
    shared.tensors[name].copy_(kept)
    shared.bump()
    assert edited != before
    assert logprobs(vllm) == before
