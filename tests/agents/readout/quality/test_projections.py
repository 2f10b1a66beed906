"""The projections of a checkpoint: found by name, and reported by name where a layer has others."""

import numpy as np
import pytest
import torch

from agents.model.weights.snapshot import to_raw
from agents.readout.quality.examiner import DOWN, OUT, find_projection, to_float32
from store.tensors.raw import RawTensor


def tensors(*names: str) -> dict[str, RawTensor]:
    return {name: to_raw(torch.full((2, 3), float(index))) for index, name in enumerate(names)}


@pytest.mark.parametrize("before", ["model.", "model.language_model.", ""])
def test_a_projection_is_found_by_its_whole_layer_number(before: str) -> None:
    checkpoint = tensors(
        f"{before}layers.1.{DOWN}", f"{before}layers.11.{DOWN}", f"model.visual.layers.1.{DOWN}"
    )
    wanted = find_projection(checkpoint, 1, DOWN)
    assert not isinstance(wanted, str) and wanted.shape == (2, 3) and not wanted.any()
    assert find_projection(checkpoint, 11, DOWN)[0, 0] == 1.0


def test_a_layer_with_another_attention_or_many_experts_is_named() -> None:
    checkpoint = tensors("model.layers.3.linear_attn.out_proj.weight", "model.layers.3.mlp.experts.down_proj")
    assert find_projection(checkpoint, 3, OUT) == "layer 3 has linear_attn and mlp, without self_attn.o_proj"
    assert "without mlp.down_proj" in find_projection(checkpoint, 3, DOWN)
    assert find_projection({}, 0, OUT) == "layer 0 has nothing, without self_attn.o_proj"


def test_a_layer_that_writes_through_a_norm_is_left_out_by_name() -> None:
    checkpoint = tensors(f"model.layers.0.{DOWN}", "model.layers.0.post_feedforward_layernorm.weight")
    assert (
        find_projection(checkpoint, 0, DOWN)
        == "layer 0 writes through post_feedforward_layernorm: mlp.down_proj left out"
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_numbers_of_every_type_are_read_as_torch_reads_them(dtype: torch.dtype) -> None:
    values = torch.tensor([[1.5, -2.25, 3e-5], [0.0, 1e4, -1.0]]).to(dtype)
    assert np.array_equal(to_float32(to_raw(values)), values.to(torch.float32).numpy())
