"""Where an update lies, on planted changes: local or spread, and along which vector."""

import numpy as np
import pytest

from store.tensors.changes import Heads, changes
from store.tensors.localize import along, parts_of, verdict_on
from store.tensors.raw import RawTensor

HIDDEN, INSIDE = 8, 16
NAMES = {
    "model.embed_tokens.weight": (40, HIDDEN),
    **{f"model.layers.{n}.self_attn.q_proj.weight": (HIDDEN, HIDDEN) for n in range(3)},
    **{f"model.layers.{n}.self_attn.o_proj.weight": (HIDDEN, HIDDEN) for n in range(3)},
    **{f"model.layers.{n}.mlp.down_proj.weight": (HIDDEN, INSIDE) for n in range(3)},
}
Weights = dict[str, np.ndarray]


def raw(weights: Weights) -> dict[str, RawTensor]:
    return {
        n: RawTensor(dtype="F32", shape=w.shape, data=w.astype(np.float32).tobytes())
        for n, w in weights.items()
    }


def ones() -> Weights:
    return {name: np.ones(shape) for name, shape in NAMES.items()}


def test_a_change_of_one_projection_is_local_and_names_it() -> None:
    after = ones()
    after["model.layers.1.self_attn.q_proj.weight"][4:] += 0.5  # the second of its two heads
    after["model.layers.0.mlp.down_proj.weight"] += 0.01
    parts = parts_of(list(changes(raw(ones()), raw(after), Heads(query=2, key_value=2))))
    assert verdict_on(parts) == "local"
    assert (parts["tensors"]["hold_most"], parts["tensors"]["parts"]) == (1, len(NAMES))
    assert parts["tensors"]["first"][0]["tensor"] == "model.layers.1.self_attn.q_proj.weight"
    assert parts["layers"]["first"][0]["layer"] == 1 and parts["kinds"]["first"][0]["kind"] == "attention q"
    (head,) = parts["heads"]["first"]
    assert (head["layer"], head["kind"], head["head"]) == (1, "attention q", 1)
    assert head["share"] == pytest.approx(1.0) and 0.99 < parts["tensors"]["first"][0]["share"] < 1


def test_a_change_of_all_weights_alike_is_spread_and_none_is_unchanged() -> None:
    after = {name: value + 0.01 for name, value in ones().items()}
    parts = parts_of(list(changes(raw(ones()), raw(after))))
    assert verdict_on(parts) == "spread" and parts["tensors"]["values"] >= 0.8
    assert parts["heads"] == {"parts": 0, "hold_most": 0, "values": 0.0, "first": []}
    nothing = parts_of(list(changes(raw(ones()), raw(ones()))))
    assert verdict_on(nothing) == "unchanged" and nothing["layers"]["first"] == []


def test_weights_that_write_along_a_concept_are_found_up_to_the_layer_that_is_read() -> None:
    rng = np.random.default_rng(0)
    vectors = {"calm": np.eye(HIDDEN)[2], "cross": np.eye(HIDDEN)[5]}
    after = ones()
    for layer in (1, 2):
        after[f"model.layers.{layer}.mlp.down_proj.weight"] += np.outer(
            vectors["calm"], rng.normal(size=INSIDE)
        )
    after["model.layers.0.self_attn.o_proj.weight"] += rng.normal(size=(HIDDEN, HIDDEN))
    found = along(raw(ones()), raw(after), vectors, layer=1)
    assert (found[0]["concept"], found[0]["tensor"]) == ("calm", "model.layers.1.mlp.down_proj.weight")
    assert found[0]["times_chance"] == pytest.approx(HIDDEN, rel=1e-3)  # all of it
    others = [row for row in found if row["tensor"] == "model.layers.0.self_attn.o_proj.weight"]
    assert others and all(row["times_chance"] < 3 for row in others)
    assert not any("layers.2" in row["tensor"] for row in found)
    assert along(raw(ones()), raw(after), {}, layer=1) == []
