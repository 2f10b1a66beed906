"""The models of transformers that the context-frozen pass supports, and its refusal of the others."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from agents.trainer.scoring import prefix_scoring
from corpus.errors import TrainerFault

torch.set_num_threads(1)
SMALL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {"num_key_value_heads": 2, "head_dim": 16}
GATED = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
Make = Callable[[], Any]

RIGHT: dict[str, Make] = {
    "grouped heads, untied": lambda: transformers.LlamaConfig(**SMALL, **GROUPED, tie_word_embeddings=False),
    "one head each": lambda: transformers.LlamaConfig(**SMALL, num_key_value_heads=4),
    "sliding window everywhere": lambda: transformers.MistralConfig(**SMALL, **GROUPED, sliding_window=8),
    "sliding window in some": lambda: transformers.Gemma3TextConfig(**SMALL, **GROUPED, sliding_window=8),
    "experts": lambda: transformers.Qwen3MoeConfig(**SMALL, **GROUPED, **EXPERTS),
    "gated delta layers": lambda: transformers.Qwen3_5TextConfig(**SMALL, **GROUPED, **GATED),
    "gated delta layers and experts": lambda: transformers.Qwen3NextConfig(
        **SMALL, **GROUPED, **GATED, **EXPERTS, shared_expert_intermediate_size=32
    ),
}
WRONG: dict[str, tuple[str, Make]] = {
    "softcap": ("has a softcap", lambda: transformers.Gemma2Config(**SMALL, **GROUPED)),
    "sinks": ("has a s_aux", lambda: transformers.GptOssConfig(**SMALL, **GROUPED, num_local_experts=4)),
    "scaled logits": ("nats apart", lambda: transformers.GraniteConfig(**SMALL, logits_scaling=3.0)),
    "chunks": ("chunked_attention", lambda: llama_in_chunks()),
    "positions by batch": (
        "depend on the batch",
        lambda: transformers.LlamaConfig(
            **SMALL, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
        ),
    ),
    "no layers": (
        "cannot be read packed",
        lambda: transformers.GPT2Config(
            vocab_size=96, n_embd=32, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2
        ),
    ),
}


def llama_in_chunks() -> Any:
    config = transformers.LlamaConfig(**SMALL)
    config.layer_types = ["chunked_attention"] * 4
    return config


def model_of(config: Any) -> Any:
    """Return a model with random weights that are less flat than transformers' initialization."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(torch.randn(parameter.shape) * 0.1)
    return model


def row(length: int, draw: random.Random) -> list[int]:
    return [draw.randrange(3, 96) for _ in range(length)]


DRAW = random.Random(5)
FIRST = row(70, DRAW)  # longer than a chunk of gated delta layers, 64
CONTEXTS = [FIRST, row(9, DRAW), FIRST[:40], FIRST, row(1, DRAW)]
SIDES = [[row(length, DRAW) for length in (3, 5, 2, 1, 4)], [row(length, DRAW) for length in (6, 2, 4, 7, 1)]]


def loss(model: Any, **how: bool) -> torch.Tensor:
    chosen, rejected = prefix_scoring.scores(model, CONTEXTS, SIDES, train=True, **how)
    return chosen.total.sum() - 0.5 * rejected.total.sum()


def full_loss(model: Any) -> torch.Tensor:
    """Return the same loss from a plain pass over every row."""
    total = torch.zeros(())
    for side, sign in zip(SIDES, (1.0, -0.5), strict=True):
        for context, answer in zip(CONTEXTS, side, strict=True):
            logits = model(torch.tensor([[*context, *answer]]), use_cache=False).logits[
                0, len(context) - 1 : -1
            ]
            each = torch.log_softmax(logits, -1).gather(-1, torch.tensor(answer)[:, None])
            total = total + sign * each.sum()
    return total


def gradients(model: Any, value: torch.Tensor) -> dict[str, torch.Tensor]:
    value.backward()  # type: ignore[no-untyped-call]
    actual = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return actual


def assert_close(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, gradient in expected.items():
        ours = actual.get(name, torch.zeros_like(gradient))  # an expert that no continuation reached
        assert torch.allclose(ours, gradient, atol=1e-5 * max(1.0, float(gradient.abs().max()))), name


@pytest.mark.parametrize("kind", RIGHT)
def test_values_and_gradients_are_those_of_full_passes(kind: str) -> None:
    model = model_of(RIGHT[kind]())
    prefix_scoring.check(model)
    expected = full_loss(model)
    assert float(loss(model).detach()) == pytest.approx(float(expected.detach()), abs=1e-3)
    exact = gradients(model, expected)
    for checkpointing in (False, True):
        actual = gradients(model, loss(model, context_gradient=True, checkpointing=checkpointing))
        assert_close(actual, exact)
    plain, again = (gradients(model, loss(model, checkpointing=on)) for on in (False, True))
    assert_close(again, plain)


@pytest.mark.parametrize("kind", WRONG)
def test_a_model_that_would_be_trained_on_wrong_logits_is_refused(kind: str) -> None:
    message, make = WRONG[kind]
    with pytest.raises(TrainerFault, match=message):
        prefix_scoring.check(model_of(make()))


def test_the_state_that_a_context_left_is_the_same_after_every_side() -> None:
    model = model_of(RIGHT["gated delta layers"]())
    one = [float(prefix_scoring.scores(model, [FIRST], [[side[0]]], train=False)[0].total) for side in SIDES]
    both = prefix_scoring.scores(model, [FIRST], [[side[0]] for side in SIDES], train=False)
    assert [float(scored.total) for scored in both] == pytest.approx(one, abs=1e-4)


def test_the_gradient_through_gated_delta_layers_is_that_of_a_constant_state() -> None:
    model = model_of(RIGHT["gated delta layers"]())
    config = model.config
    context, answer = FIRST[:66], SIDES[0][1]
    actual = gradients(model, prefix_scoring.scores(model, [context], [[answer]], train=True)[0].total.sum())
    # Independently: transformers' own cache, filled without gradients, and one token of context held back.
    cache = transformers.DynamicCache(config=config)
    with torch.no_grad():
        model(torch.tensor([context[:-1]]), past_key_values=cache, use_cache=True)
    for layer in cache.layers:
        if hasattr(layer, "record_past"):
            state = layer.recurrent_states[0].clone()
            layer.recurrent_states[0] = state
            layer.update_recurrent_state = lambda states, *rest, **named: (
                states
            )  # theirs writes over what backward needs
    fed = torch.tensor([[context[-1], *answer[:-1]]])
    logits = model(fed, past_key_values=cache, use_cache=True).logits[0]
    expected = torch.log_softmax(logits, -1).gather(-1, torch.tensor(answer)[:, None]).sum()
    assert_close(actual, gradients(model, expected))
