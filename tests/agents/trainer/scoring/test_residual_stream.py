"""The residual stream at the last token: each text alone, an early end exact to the bit, and the heads."""

import random
from typing import Any

import pytest
import torch
import transformers

from agents.trainer.scoring import residual_stream
from agents.trainer.scoring.compute import computing, reading_type
from corpus.errors import TrainerFault

HEADS, HEAD_SIZE = 4, 16


def texts(count: int = 40, seed: int = 1) -> list[list[int]]:
    """Return random texts of 1 to 30 tokens, more than fit into one pass."""
    draw = random.Random(seed)
    return [[draw.randrange(96) for _ in range(draw.randint(1, 30))] for _ in range(count)]


def test_residuals_are_those_of_each_text_alone_in_the_requested_order(tiny: Any) -> None:
    actual = residual_stream.residuals(tiny, texts(), [1, 0])
    assert actual.shape == (40, 2, 64) and actual.dtype == torch.float32
    for i, text in enumerate(texts()):
        alone = residual_stream.residuals(tiny, [text], [0, 1])
        assert torch.allclose(actual[i, 1], alone[0, 0], atol=1e-5)
        assert torch.allclose(actual[i, 0], alone[0, 1], atol=1e-5)
        with torch.no_grad():
            final = tiny.model(torch.tensor([text])).last_hidden_state[0, -1]
        assert torch.allclose(tiny.model.norm(actual[i, 0]), final, atol=1e-4)


def test_a_small_model_is_read_in_its_own_type_and_bfloat16_reads_nearly_the_same(tiny: Any) -> None:
    assert reading_type(tiny) == "weights"
    exact = residual_stream.residuals(tiny, texts(), [1])
    with computing("bfloat16", torch.device("cpu")):
        rounded = residual_stream.residuals(tiny, texts(), [1])
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
    assert (rounded - exact).norm() < 0.02 * exact.norm()


def test_a_missing_layer_or_an_empty_text_is_refused(tiny: Any) -> None:
    for layers, heads, rows in (
        ([2], [], texts()),
        ([0], [2], texts()),
        ([-1], [], texts()),
        ([0], [], [[1], []]),
    ):
        with pytest.raises(TrainerFault, match="layers are 0 to 1"):
            residual_stream.read(tiny, rows, layers, heads)
    assert residual_stream.residuals(tiny, [], [0, 1]).shape == (0, 2, 64)


def test_a_pass_ends_at_the_deepest_layer_with_the_bits_of_a_whole_pass(tiny: Any) -> None:
    whole = residual_stream.read(tiny, texts(), [0, 1], [0])
    before = [
        len(layer._forward_hooks) for layer in tiny.model.layers
    ]  # transformers' own, if it was asked for states
    computed: list[int] = []
    watches = [
        layer.register_forward_pre_hook(lambda module, given, i=i: computed.append(i))
        for i, layer in enumerate(tiny.model.layers)
    ]
    try:
        early = residual_stream.read(tiny, texts(), [0], [0])
    finally:
        for watch in watches:
            watch.remove()
    assert set(computed) == {0}
    assert torch.equal(early.stream[:, 0], whole.stream[:, 0]) and torch.equal(early.heads[0], whole.heads[0])
    assert [len(layer._forward_hooks) for layer in tiny.model.layers] == before


def test_texts_of_similar_length_share_a_pass(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, int]] = []
    watch = tiny.model.register_forward_pre_hook(
        lambda module, given, named: shapes.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    try:
        residual_stream.residuals(tiny, texts(), [1])
        assert sum(rows for rows, _ in shapes) == 40 and [width for _, width in shapes] == sorted(
            {w for _, w in shapes}
        )
        padded = sum(rows * width for rows, width in shapes)
        assert padded < 0.75 * 40 * 30 and max(rows for rows, _ in shapes) == residual_stream.CHUNK
        monkeypatch.setattr(residual_stream, "CHUNK_TOKENS", 60)
        shapes.clear()
        residual_stream.residuals(tiny, texts(), [1])
        assert max(rows * width for rows, width in shapes) <= 60
    finally:
        watch.remove()


def test_heads_are_what_the_output_projection_takes_and_adds_up_to_what_attention_gives(tiny: Any) -> None:
    attention: list[torch.Tensor] = []
    watch = tiny.model.layers[1].self_attn.register_forward_hook(
        lambda module, given, output: attention.append(output[0][0, -1])
    )
    try:
        for text in texts(5):
            actual = residual_stream.read(tiny, [text], [1], [1])
            assert actual.heads[1].shape == (1, HEADS, HEAD_SIZE) and not actual.skipped
            parts = tiny.model.layers[1].self_attn.o_proj.weight.view(64, HEADS, HEAD_SIZE)
            assert torch.allclose(
                torch.einsum("hnd,nd->h", parts, actual.heads[1][0]), attention.pop(), atol=1e-5
            )
    finally:
        watch.remove()


def test_a_layer_whose_attention_has_another_layout_is_skipped_by_name() -> None:
    torch.manual_seed(0)
    config = transformers.Qwen3_5TextConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, layer_types=["linear_attention"] * 3 + ["full_attention"],
        linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    rows = texts(5)
    actual = residual_stream.read(model, rows, [0], [3, 0])
    assert actual.skipped == {0: "Qwen3_5GatedDeltaNet"} and list(actual.heads) == [3]
    assert actual.heads[3].shape == (5, 4, 16) and actual.stream.shape == (5, 1, 32)
    for i, row in enumerate(rows):
        assert torch.allclose(residual_stream.residuals(model, [row], [0])[0], actual.stream[i], atol=1e-5)
