"""The location of an update, on planted changes: local or spread, and along which vector."""

import numpy as np
import pytest

from store.tensors.changes import Heads
from store.tensors.localize import Concentration, HeadPart, Located, locate
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


def located_from_ones(after: Weights, heads: Heads | None = None) -> Located:
    return locate(raw(ones()), raw(after), heads, vectors={}, layer=1)


def test_a_change_of_one_projection_is_local_and_names_it() -> None:
    after = ones()
    after["model.layers.1.self_attn.q_proj.weight"][4:] += 0.5  # the second of its two heads
    after["model.layers.0.mlp.down_proj.weight"] += 0.01
    located = located_from_ones(after, Heads(query=2, key_value=2))
    assert located.verdict == "local"
    assert (located.tensors.hold_most, located.tensors.parts) == (1, len(NAMES))
    assert located.tensors.first[0].tensor == "model.layers.1.self_attn.q_proj.weight"
    assert located.layers.first[0].layer == 1 and located.kinds.first[0].kind == "attention q"
    (head,) = located.heads.first
    assert (head.layer, head.kind, head.head) == (1, "attention q", 1)
    assert head.share == pytest.approx(1.0) and 0.99 < located.tensors.first[0].share < 1


def test_a_change_of_all_weights_alike_is_spread_and_none_is_unchanged() -> None:
    after = {name: value + 0.01 for name, value in ones().items()}
    located = located_from_ones(after)
    assert located.verdict == "spread" and located.tensors.values >= 0.8
    assert located.heads == Concentration[HeadPart](parts=0, hold_most=0, values=0.0, first=[])
    nothing = located_from_ones(ones())
    assert nothing.verdict == "unchanged" and nothing.layers.first == []


def test_weights_that_write_along_a_concept_are_found_up_to_the_monitored_layer() -> None:
    rng = np.random.default_rng(0)
    vectors = {"calm": np.eye(HIDDEN)[2], "cross": np.eye(HIDDEN)[5]}
    after = ones()
    for layer in (1, 2):
        after[f"model.layers.{layer}.mlp.down_proj.weight"] += np.outer(
            vectors["calm"], rng.normal(size=INSIDE)
        )
    after["model.layers.0.self_attn.o_proj.weight"] += rng.normal(size=(HIDDEN, HIDDEN))
    along = locate(raw(ones()), raw(after), vectors=vectors, layer=1).along
    assert (along[0].concept, along[0].tensor) == ("calm", "model.layers.1.mlp.down_proj.weight")
    assert along[0].times_chance == pytest.approx(HIDDEN, rel=1e-3)  # all of it
    others = [writer for writer in along if writer.tensor == "model.layers.0.self_attn.o_proj.weight"]
    assert others and all(writer.times_chance < 3 for writer in others)
    assert not any("layers.2" in writer.tensor for writer in along)
    assert located_from_ones(after).along == []
