"""The memory estimate from a manifest's shapes, against the one that the trainer computes with tokens."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import transformers

from agents.model.weights.snapshot import to_raw
from agents.trainer.apollo.optimizer import Apollo
from agents.trainer.memory_estimate import (
    CONTEXT_TOKENS,
    checkpoint_bytes,
    estimate,
    estimate_from_shapes,
)
from agents.trainer.messages import Example, Settings
from agents.trainer.update import memory
from corpus.recipe import MODEL_DIR
from store.checkpoints.store import SPARE_BYTES, CheckpointStore
from store.tensors.raw import specs_of

ANSWER = 48


@pytest.fixture(scope="module")
def model() -> object:
    return transformers.AutoModelForCausalLM.from_pretrained(MODEL_DIR, local_files_only=True).eval()


@pytest.mark.parametrize(
    "more", [{}, {"micro_batch": 2}, {"activation_checkpointing": True}, {"context_gradient": True}], ids=str
)
def test_the_estimate_is_near_what_the_trainer_measures(model: object, more: dict[str, object]) -> None:
    settings = dataclasses.replace(Settings(lr=1e-3, batch_size=8), **more)
    parameters = dict(model.named_parameters())  # type: ignore[attr-defined]
    offsets = {name: at for at, name in enumerate(parameters)}
    entries = [
        {"name": name, "offset": offsets[name], "shape": list(one.shape), "dtype": "float32"}
        for name, one in parameters.items()
    ]
    config = json.loads((MODEL_DIR / "config.json").read_text())
    estimated = estimate_from_shapes(entries, config, settings, answer_tokens=ANSWER, copied=False)
    example = Example(context=[5] * CONTEXT_TOKENS, chosen=[6] * ANSWER, rejected=[7] * ANSWER)
    measured = estimate(
        memory.measure(model),
        settings,
        [example] * 8,
        [4 * one.numel() for one in parameters.values()],
        estimated.optimizer,
    )
    assert estimated.gradients == measured.gradients
    assert 0.5 < estimated.total / measured.total < 2


def test_weights_on_a_gpu_are_copied_for_a_checkpoint_and_tied_ones_counted_once() -> None:
    entries = [
        {"name": name, "offset": offset, "shape": shape, "dtype": "bfloat16"}
        for name, offset, shape in (("embed", 0, [1000, 64]), ("head", 0, [1000, 64]), ("norm", 9, [64]))
    ]
    config = {"vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    estimated = estimate_from_shapes(
        entries, config, Settings(lr=1e-3, rank=8), answer_tokens=ANSWER, copied=True
    )
    assert estimated.copy == 2 * (64000 + 64)
    assert estimated.optimizer == 4 * 2 * (8 * 1000 + 64)


@pytest.mark.parametrize("more", [{}, {"rank": 4}, {"master_weights": True}], ids=str)
def test_the_disk_estimate_covers_the_checkpoint_and_little_more(
    tmp_path: Path, more: dict[str, object]
) -> None:
    settings = Settings(lr=1e-3, **more)  # type: ignore[arg-type]
    model = transformers.AutoModelForCausalLM.from_pretrained(
        MODEL_DIR, local_files_only=True, dtype=torch.bfloat16
    )
    optimizer = Apollo(
        model.parameters(), 1e-3, rank=settings.rank, master_weights=settings.master_weights, seed=1
    )
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    named = dict(model.named_parameters())
    raw = {name: to_raw(tensor) for name, tensor in named.items()}
    state = {name: to_raw(tensor) for name, tensor in optimizer.export_state(list(named)).items()}
    written = CheckpointStore(tmp_path).write(raw, state, {}).nbytes
    estimated = checkpoint_bytes(specs_of(raw), settings)
    assert 0.99 * estimated < written < estimated + SPARE_BYTES / 100
