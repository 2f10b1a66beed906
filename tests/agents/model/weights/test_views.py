"""The shared weights, the model on their views, and snapshots of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from agents.model.weights import views
from agents.model.weights.shared import SharedWeights
from agents.model.weights.snapshot import from_raw, raw_weights, restore, to_raw, unique_entries
from corpus.errors import IntegrityFault, UnsafeModel
from store.checkpoints.store import CheckpointStore

TOKENS = torch.tensor([[1, 2, 3, 4, 5]])


@pytest.fixture
def home(make_home: Callable[[], Path]) -> Path:
    return make_home()


@pytest.fixture
def shared(home: Path) -> SharedWeights:
    return SharedWeights.attach(home / "run" / "weights.bin")


def test_the_model_on_views_reads_what_is_served_and_follows_it(
    home: Path, shared: SharedWeights, model_directory: Path, tiny: Any
) -> None:
    model = views.build(shared, model_directory)
    with torch.no_grad():
        assert torch.equal(model(TOKENS).logits, tiny(TOKENS).logits)
        served = SharedWeights.attach(home / "run" / "weights.bin")
        served.tensors["model.norm.weight"].mul_(2)
        assert torch.allclose(model(TOKENS).logits, 2 * tiny(TOKENS).logits, rtol=1e-4)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])


def test_weights_that_list_a_tied_tensor_once_are_enough(
    tmp_path: Path, model_directory: Path, tiny: Any
) -> None:
    once = dict(tiny.named_parameters())
    assert "lm_head.weight" not in once
    shared = SharedWeights.create(tmp_path / "weights.bin", once, model="tiny")
    model = views.build(shared, model_directory)
    with torch.no_grad():
        assert torch.equal(model(TOKENS).logits, tiny(TOKENS).logits)


def test_an_embedding_with_a_scale_is_built_as_gemma_3_has_it(tmp_path: Path) -> None:
    config = transformers.Gemma3TextConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, sliding_window=4, query_pre_attn_scalar=16,
    )  # fmt: skip
    gemma = transformers.AutoModelForCausalLM.from_config(config).eval()
    gemma.save_pretrained(tmp_path / "gemma")
    shared = SharedWeights.create(tmp_path / "weights.bin", dict(gemma.named_parameters()), model="gemma")
    model = views.build(shared, tmp_path / "gemma")
    with torch.no_grad():
        assert torch.equal(model(TOKENS).logits, gemma(TOKENS).logits)
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])


def test_weights_that_do_not_match_the_model_are_refused_with_the_differences(
    tmp_path: Path, model_directory: Path, tiny: Any
) -> None:
    state = dict(tiny.state_dict())
    del state["model.norm.weight"]
    state["model.surplus"] = torch.zeros(3)
    state["model.layers.0.mlp.up_proj.weight"] = torch.zeros(5, 64)
    state["lm_head.weight"] = state["lm_head.weight"].clone()
    shared = SharedWeights.create(tmp_path / "weights.bin", state, model="tiny")
    with pytest.raises(IntegrityFault) as refused:
        views.build(shared, model_directory)
    for difference in ("model.norm.weight is not served", "model.surplus is served", "[5, 64]", "is tied"):
        assert difference in str(refused.value)


def test_a_model_directory_that_would_run_code_is_refused(tmp_path: Path, shared: SharedWeights) -> None:
    (tmp_path / "config.json").write_text('{"auto_map": {"AutoConfig": "code.Config"}}')
    with pytest.raises(UnsafeModel, match="auto_map"):
        views.build(shared, tmp_path)


def test_new_weights_at_the_same_path_leave_the_old_ones_readable(home: Path, shared: SharedWeights) -> None:
    before = shared.tensors["model.norm.weight"].clone()
    assert not shared.replaced
    SharedWeights.create(home / "run" / "weights.bin", {"other": torch.zeros(3)}, model="other")
    assert shared.replaced
    assert torch.equal(shared.tensors["model.norm.weight"], before)


def test_the_header_is_visible_to_every_process_that_maps_it(home: Path, shared: SharedWeights) -> None:
    other = SharedWeights.attach(home / "run" / "weights.bin")
    shared.dirty, shared.holds = True, "ab" * 32
    assert shared.bump() == other.version and other.dirty and other.holds == "ab" * 32
    shared.holds = ""
    assert other.holds == ""


def test_missing_or_truncated_weights_are_a_fault(tmp_path: Path, home: Path) -> None:
    with pytest.raises(IntegrityFault, match="start the model server"):
        SharedWeights.attach(tmp_path / "weights.bin")
    path = home / "run" / "weights.bin"
    path.write_bytes(path.read_bytes()[:-256])
    with pytest.raises(IntegrityFault, match="not as long"):
        SharedWeights.attach(path)


def test_a_snapshot_restores_every_bit_and_keeps_tied_weights_once(home: Path, shared: SharedWeights) -> None:
    store = CheckpointStore(home / "checkpoints")
    assert [e.name for e in unique_entries(shared)].count("lm_head.weight") == 0
    before = {name: tensor.clone() for name, tensor in shared.tensors.items()}
    checkpoint = store.write(raw_weights(shared), None, {"cursor": 0})
    for tensor in shared.tensors.values():
        tensor.add_(1)
    version = shared.version
    assert restore(shared, store, checkpoint.id, clean=False)
    assert all(torch.equal(before[name], tensor) for name, tensor in shared.tensors.items())
    assert shared.dirty and shared.holds == checkpoint.id and shared.version == version + 1
    assert not restore(shared, store, checkpoint.id, clean=True)  # it holds them already
    assert not shared.dirty and shared.version == version + 1


def test_a_checkpoint_of_another_model_is_refused_before_anything_is_written(
    home: Path, shared: SharedWeights
) -> None:
    store = CheckpointStore(home / "checkpoints")
    before = {name: tensor.clone() for name, tensor in shared.tensors.items()}
    tensors = raw_weights(shared)
    tensors["model.norm.weight"] = to_raw(torch.zeros(63))
    other = store.write(tensors, None, {})
    with pytest.raises(IntegrityFault, match="does not fit"):
        restore(shared, store, other.id, clean=True)
    assert all(torch.equal(before[name], tensor) for name, tensor in shared.tensors.items())
    assert shared.version == 0 and not shared.dirty


def planted(folder: Path, tensors: dict[str, torch.Tensor]) -> SharedWeights:
    return SharedWeights.create(folder / "weights.bin", tensors, model="tiny")


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_a_checkpoint_is_restored_into_a_wider_type_bit_for_bit(tmp_path: Path, narrow: torch.dtype) -> None:
    store, weight = CheckpointStore(tmp_path / "checkpoints"), torch.randn(3, 5).to(narrow)
    shared = planted(tmp_path, {"a": torch.zeros(3, 5), "b": torch.zeros(2, dtype=narrow)})
    base = store.write({"a": to_raw(weight), "b": to_raw(torch.ones(2, dtype=narrow))}, None, {})
    assert restore(shared, store, base.id, clean=True)
    assert torch.equal(shared.tensors["a"], weight.float()) and shared.tensors["a"].dtype == torch.float32


def test_a_checkpoint_is_restored_into_a_narrower_type_only_if_no_value_changes(tmp_path: Path) -> None:
    store, shared = (
        CheckpointStore(tmp_path / "checkpoints"),
        planted(tmp_path, {"a": torch.ones(2).bfloat16()}),
    )
    exact = store.write({"a": to_raw(torch.tensor([0.5, -3.0]))}, None, {})
    assert restore(shared, store, exact.id, clean=True)
    assert shared.tensors["a"].tolist() == [0.5, -3.0]
    for lossy in (torch.tensor([0.1, -3.0]), torch.tensor([1 + 2**-10, 1.0]).half(), torch.tensor([1, 2])):
        other = store.write({"a": to_raw(lossy)}, None, {})
        with pytest.raises(IntegrityFault, match=r"of which bfloat16 would lose bits.*--dtype float32"):
            restore(shared, store, other.id, clean=True)
    assert shared.tensors["a"].tolist() == [0.5, -3.0] and not shared.dirty


def test_a_checkpoint_may_have_tied_weights_twice_if_they_are_equal(tmp_path: Path) -> None:
    store, tied = CheckpointStore(tmp_path / "checkpoints"), torch.zeros(2)
    shared = planted(tmp_path, {"embed": tied, "head": tied})
    one, other = to_raw(torch.ones(2)), to_raw(torch.full((2,), 2.0))
    restore(shared, store, store.write({"embed": one, "head": one}, None, {}).id, clean=True)
    assert shared.tensors["head"].tolist() == [1, 1]
    with pytest.raises(IntegrityFault, match="head is not equal to embed"):
        restore(shared, store, store.write({"embed": one, "head": other}, None, {}).id, clean=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int64, torch.bool])
def test_tensors_of_any_type_and_shape_survive_as_raw_bytes(dtype: torch.dtype) -> None:
    for tensor in (torch.randn(3, 5).to(dtype), torch.ones(()).to(dtype), torch.zeros(0, 4).to(dtype)):
        restored = from_raw(to_raw(tensor))
        assert restored.dtype == dtype and torch.equal(restored, tensor)
    turned = torch.randn(3, 5).to(dtype).T
    assert torch.equal(from_raw(to_raw(turned)), turned)
