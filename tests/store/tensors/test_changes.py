"""Changes of weights, against numbers worked out by hand or by plain NumPy."""

from math import sqrt

import numpy as np
import pytest

from store.tensors.changes import Change, Figures, Heads, changes, kind_of, layer_of, summed, unlike
from store.tensors.raw import RawTensor

LAYER = "model.layers.7."
TWO_HEADS = Heads(query=2, key_value=1)


def raw(values: object, dtype: str = "F32") -> RawTensor:
    array = np.asarray(values, "<f4")
    data = (array.view("<u4") >> 16).astype("<u2") if dtype == "BF16" else array
    return RawTensor(dtype=dtype, shape=array.shape, data=data.tobytes())


def only(name: str, before: RawTensor, after: RawTensor, heads: Heads | None = None) -> Change:
    (change,) = changes({name: before}, {name: after}, heads)
    return change


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_a_change_is_counted_and_measured(dtype: str) -> None:
    before, after = raw([[3.0, 4.0], [0.0, 0.0]], dtype), raw([[3.0, 1.0], [4.0, 0.0]], dtype)
    figures = only("x", before, after).extent.figures
    assert figures == Figures(elements=4, changed=2, share=0.5, norm=5.0, relative=1.0)


def test_a_changed_sign_of_zero_counts_as_changed_with_norm_zero() -> None:
    figures = only("x", raw([0.0, 1.0]), raw([-0.0, 1.0])).extent.figures
    assert (figures.changed, figures.norm, figures.relative) == (1, 0.0, 0.0)


def test_a_tensor_of_zeros_has_no_relative_change() -> None:
    assert only("x", raw([0.0]), raw([2.0])).extent.figures.relative is None


def test_the_same_values_in_another_type_are_no_change() -> None:
    assert only("x", raw([1.0, -2.5], "BF16"), raw([1.0, -2.5])).extent.changed == 0
    assert only("x", raw([1.0, -2.5], "BF16"), raw([1.0, -2.25])).extent.changed == 1


def test_heads_are_rows_of_q_and_k_and_columns_of_o() -> None:
    zero, moved = np.ones((4, 6)), np.ones((4, 6))
    moved[3, 1] += 2.0
    q = only(f"{LAYER}self_attn.q_proj.weight", raw(zero), raw(moved), TWO_HEADS)
    assert [head.figures.norm for head in q.heads] == [0.0, 2.0]
    assert [head.figures.relative for head in q.heads] == pytest.approx([0.0, 2.0 / sqrt(12)])
    assert [head.elements for head in q.heads] == [12, 12]
    o = only(f"{LAYER}self_attn.o_proj.weight", raw(zero), raw(moved), TWO_HEADS)
    assert [head.figures.norm for head in o.heads] == [2.0, 0.0]
    k = only(f"{LAYER}self_attn.k_proj.weight", raw(zero), raw(moved), TWO_HEADS)
    assert [head.figures.norm for head in k.heads] == [2.0]
    bias = only(f"{LAYER}self_attn.q_proj.bias", raw([1.0, 1.0]), raw([1.0, 4.0]), TWO_HEADS)
    assert [head.figures.norm for head in bias.heads] == [0.0, 3.0]


@pytest.mark.parametrize("name", ["self_attn.o_proj.bias", "mlp.up_proj.weight", "self_attn.q_norm.weight"])
def test_tensors_without_heads_have_no_head_changes(name: str) -> None:
    assert only(f"{LAYER}{name}", raw([1.0, 1.0]), raw([1.0, 2.0]), TWO_HEADS).heads == []


def test_a_tensor_that_the_heads_do_not_divide_is_reported_as_a_whole() -> None:
    odd = only(f"{LAYER}self_attn.q_proj.weight", raw(np.ones((3, 2))), raw(np.zeros((3, 2))), TWO_HEADS)
    assert odd.heads == [] and odd.extent.figures.norm == sqrt(6)


@pytest.mark.parametrize("kind", ["q_proj", "o_proj", "other"])
def test_pieces_give_the_same_result_as_the_whole(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    before = rng.standard_normal((12, 10)).astype("f4")
    after = np.where(rng.random((12, 10)) < 0.3, before * 1.5, before).astype("f4")
    monkeypatch.setattr("store.tensors.changes.PIECE", 7)
    change = only(f"{LAYER}self_attn.{kind}.weight", raw(before), raw(after), TWO_HEADS)
    assert change.extent.changed == np.count_nonzero(before != after)
    assert change.extent.figures.norm == pytest.approx(np.linalg.norm(after - before.astype("f8")), rel=1e-12)
    for number, head in enumerate(change.heads):
        part = (
            np.s_[:, 5 * number : 5 * number + 5] if kind == "o_proj" else np.s_[6 * number : 6 * number + 6]
        )
        assert head.figures.norm == pytest.approx(
            np.linalg.norm((after - before)[part].astype("f8")), rel=1e-6
        )


@pytest.mark.parametrize(
    "name, kind, layer",
    [
        ("model.layers.12.self_attn.v_proj.weight", "attention v", 12),
        ("model.layers.0.mlp.gate_proj.weight", "mlp gate", 0),
        ("model.layers.3.mlp.experts.5.down_proj.weight", "mlp down", 3),
        ("model.layers.3.mlp.gate.weight", "other", 3),
        ("model.layers.3.self_attn.k_norm.weight", "norms", 3),
        ("model.layers.3.input_layernorm.weight", "norms", 3),
        ("model.layers.3.linear_attn.in_proj_qkv.weight", "other", 3),
        ("model.norm.weight", "norms", None),
        ("model.embed_tokens.weight", "embeddings", None),
        ("lm_head.weight", "embeddings", None),
    ],
)
def test_layer_and_kind_are_parsed_from_the_name(name: str, kind: str, layer: int | None) -> None:
    assert (kind_of(name), layer_of(name)) == (kind, layer)


def test_changes_add_up_by_layer_and_by_kind() -> None:
    names = ("model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight")
    before = {name: raw([1.0, 1.0]) for name in names}
    after = {name: raw([1.0, 1.0 + step]) for name, step in zip(names, (3.0, 4.0, 1.0), strict=True)}
    changed = list(changes(before, after))
    assert {key: part.figures.norm for key, part in summed(changed, "layer").items()} == {
        0: 3.0,
        1: 4.0,
        None: 1.0,
    }
    assert {key: part.figures.norm for key, part in summed(changed, "kind").items()} == {
        "mlp up": 5.0,
        "norms": 1.0,
    }


def test_tensors_that_cannot_be_compared_are_named() -> None:
    before, after = (
        {"a": raw([1.0]), "b": raw([1.0]), "c": raw([1.0])},
        {"a": raw([1.0]), "b": raw([1.0, 2.0])},
    )
    assert unlike(before, after) == ["b", "c"]
    assert [change.name for change in changes(before, after)] == ["a"]


def test_empty_and_scalar_tensors_are_measured() -> None:
    assert only("x", raw(np.zeros((0, 3))), raw(np.zeros((0, 3)))).extent.elements == 0
    assert only("x", raw(2.0), raw(3.0)).extent.figures.norm == 1.0
