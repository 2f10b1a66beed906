"""The forward passes: the same numbers as transformers, and rows that keep apart."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
import transformers

from agents.model.embedded import kernel
from agents.model.embedded.decoder import DecoderForward
from agents.model.embedded.forward import Forward, TransformersForward, forward_for
from agents.model.embedded.passes import Part

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, rope_parameters=LLAMA3)),
    "mistral": lambda: transformers.MistralForCausalLM(
        transformers.MistralConfig(**SIZES, sliding_window=20)
    ),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SIZES)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SIZES, head_dim=16)),
    "gemma3": lambda: transformers.Gemma3ForCausalLM(
        transformers.Gemma3TextConfig(
            **SIZES | {"num_hidden_layers": 7}, head_dim=32, sliding_window=20, query_pre_attn_scalar=24
        )
    ),
}
PROMPTS = [[5, 6, 7], list(range(10, 60)), [9], list(range(100, 190)), list(range(40, 170)), [8] * 16]
"""Among them prompts of one token, of a whole page of the cache, and of more tokens than `decoder.LONG`."""


def of_family(name: str) -> Any:
    """Return a random model whose biases and norms are not the usual zeros and ones."""
    torch.manual_seed(0)
    model = FAMILIES[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(params=["compiled", "torch"])
def arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run the test with the compiled library, if it is built, and without."""
    if request.param == "torch":
        monkeypatch.setattr(kernel, "library", lambda: None)
    elif kernel.library() is None:
        pytest.skip("the library is not built here")
    yield request.param


def opened(forward: Forward, count: int) -> list[int]:
    rows = [forward.open(256) for _ in range(count)]
    assert None not in rows
    return [row for row in rows if row is not None]


def next_logits(forward: Forward, texts: Sequence[list[int]], cuts: Sequence[int] = ()) -> torch.Tensor:
    """Return the logits after each text; all texts are read in one pass, or in pieces that end at `cuts`."""
    rows = opened(forward, len(texts))
    ends = [*cuts, 10_000]
    found: dict[int, torch.Tensor] = {}
    for first, end in zip([0, *cuts], ends, strict=True):
        some = [at for at, text in enumerate(texts) if len(text) > first]
        logits = forward.read(
            [Part(rows[at], texts[at][first:end], first, len(texts[at]) <= end) for at in some]
        )
        found |= dict(zip([at for at in some if len(texts[at]) <= end], logits, strict=True))
    for row in rows:
        forward.close(row)
    return torch.stack([found[at] for at in range(len(texts))])


@torch.inference_mode()
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_computes_the_same_as_transformers(arithmetic: str, family: str) -> None:
    model = of_family(family)
    assert isinstance(forward_for(model), DecoderForward)
    forward = DecoderForward(model)
    for untouched in (*forward._cache.keys, *forward._cache.values):
        untouched.fill_(torch.nan)  # pages are memory as it is found
    expected = torch.stack([model(torch.tensor([text])).logits[0, -1] for text in PROMPTS])
    for cuts in ((), (64,), (10, 90)):
        torch.testing.assert_close(next_logits(forward, PROMPTS, cuts), expected, atol=2e-5, rtol=1e-5)
    rows = opened(forward, len(PROMPTS))
    forward.read([Part(row, text, 0, True) for row, text in zip(rows, PROMPTS, strict=True)])
    texts = [list(text) for text in PROMPTS]
    for more in range(3):
        parts = []
        for place, text in enumerate(texts):
            parts.append(Part(rows[place], [20 + place + more], len(text), True))
            text.append(20 + place + more)
        expected = torch.stack([model(torch.tensor([text])).logits[0, -1] for text in texts])
        torch.testing.assert_close(forward.read(parts), expected, atol=2e-5, rtol=1e-5)


@torch.inference_mode()
def test_any_other_model_is_computed_by_transformers_itself(model: Any) -> None:
    config = transformers.GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=2, n_positions=128)
    other = transformers.GPT2LMHeadModel(config).eval()
    forward = forward_for(other)
    assert isinstance(forward, TransformersForward)
    texts = PROMPTS[:3]
    expected = torch.stack([other(torch.tensor([text])).logits[0, -1] for text in texts])
    torch.testing.assert_close(next_logits(forward, texts), expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(
        next_logits(TransformersForward(model), PROMPTS),
        next_logits(DecoderForward(model), PROMPTS),
        atol=2e-5,
        rtol=0,
    )


@torch.inference_mode()
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rows_logits_do_not_change_by_a_bit_with_the_rows_beside_it(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, threads: int
) -> None:
    if kernel.library() is None:
        pytest.skip("the library is not built here")
    forward = DecoderForward(of_family("llama").to(dtype))
    alone = torch.cat([next_logits(forward, [text]) for text in PROMPTS])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for beside in (PROMPTS, PROMPTS[::-1], [*PROMPTS, *([[7] * 40] * 60)]):
            together = next_logits(forward, beside)
            for text, own in zip(PROMPTS, alone, strict=True):
                assert torch.equal(together[beside.index(text)], own)
    finally:
        torch.set_num_threads(before)
