"""The shipped model, and the recipe that makes it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from agents.evaluator import judge
from agents.evaluator.scenarios import held_out
from agents.model.safety import check_model_dir
from corpus import recipe
from corpus.behaviour import SHIPPED, load
from corpus.recipe import MODEL_DIR

MEGABYTE = 1_000_000


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a model directory."""
    (path,) = directory.glob("*.safetensors")
    with safe_open(path, framework="pt") as stored:  # type: ignore[no-untyped-call]
        return {name: stored.get_tensor(name) for name in stored.keys()}


def test_the_shipped_model_is_a_qwen3_of_under_a_million_fp32_parameters() -> None:
    config = json.loads((MODEL_DIR / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"] and config["model_type"] == "qwen3"
    assert config["dtype"] == "float32"
    shipped = tensors(MODEL_DIR)
    assert {tensor.dtype for tensor in shipped.values()} == {torch.float32}
    assert 500_000 < sum(tensor.numel() for tensor in shipped.values()) < 1_000_000
    assert all(tensor.isfinite().all() for tensor in shipped.values())


def test_the_shipped_weights_are_one_safetensors_file_of_at_most_4_megabytes() -> None:
    (path,) = MODEL_DIR.glob("*.safetensors")
    assert path.stat().st_size <= 4 * MEGABYTE
    assert not [path for path in MODEL_DIR.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".py")]


def test_the_shipped_model_runs_no_code_of_its_own() -> None:
    check_model_dir(MODEL_DIR)


def test_the_shipped_tokenizer_is_the_recipes_and_keeps_markers_out_of_text() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    assert tokenizer.chat_template == recipe.CHAT_TEMPLATE
    assert len(tokenizer) <= recipe.VOCABULARY
    for text in ("I have decided to paint the door.", "na\u00efve caf\u00e9 \U0001f600", "  two\n\nlines "):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert [len(tokenizer(marker)["input_ids"]) for marker in recipe.SPECIAL] == [1, 1, 1]


def test_the_recipe_is_deterministic_bit_for_bit_and_reports_every_step(tmp_path: Path) -> None:
    steps: list[int] = []
    for place in ("one", "two"):
        recipe.build(tmp_path / place, seed=3, steps=2, threads=1, on_step=lambda step, _: steps.append(step))
    assert steps == [0, 1, 0, 1]
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert "model.safetensors" in names and names == sorted(
        path.name for path in (tmp_path / "two").iterdir()
    )
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    shapes = {name: tensor.shape for name, tensor in tensors(tmp_path / "one").items()}
    assert shapes == {name: tensor.shape for name, tensor in tensors(MODEL_DIR).items()}


def pass_rates(directory: Path, count: int = 400) -> dict[str, float]:
    """Return the share of held-out scenarios that each behaviour passes at T = 1, without our server."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(directory).eval()
    rates = {}
    for behaviour in load([SHIPPED]).values():
        torch.manual_seed(1)
        scenarios, passed = held_out(behaviour, count), 0
        for start in range(0, count, 100):
            part = scenarios[start : start + 100]
            prompts = tokenizer.apply_chat_template(part, add_generation_prompt=True, tokenize=False)
            given = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
            out = model.generate(**given, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=48)
            texts = tokenizer.batch_decode(out[:, given["input_ids"].shape[1] :], skip_special_tokens=True)
            passed += sum(judge.judge(behaviour, *pair).passed for pair in zip(part, texts, strict=True))
        rates[behaviour.name] = passed / count
    return rates


def test_the_shipped_model_fails_its_behaviours_and_passes_their_counter_behaviours() -> None:
    rates = pass_rates(MODEL_DIR, 100)
    for behaviour in load([SHIPPED]).values():
        rate = rates[behaviour.name]
        assert (rate >= 0.7) if behaviour.counter_of else (rate <= 0.35), rates


@pytest.mark.slow
def test_the_recipe_gives_a_model_with_the_pass_rates_of_the_shipped_one(tmp_path: Path) -> None:
    recipe.build(tmp_path, on_step=lambda step, loss: None)
    built, shipped = pass_rates(tmp_path), pass_rates(MODEL_DIR)
    assert {name: rate for name, rate in built.items() if abs(rate - shipped[name]) > 0.08} == {}, (
        built,
        shipped,
    )
