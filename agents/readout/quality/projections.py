"""The two projections that a quality report needs, out of a checkpoint's tensors.

Invariant: a layer that has no such projection, or writes through a norm behind it, is told by its number and the
name of what it has, and is no error. Knows names as Hugging Face gives them, and no model object.
"""

from collections.abc import Mapping

import numpy as np

from agents.readout.quality.samples import Numbers
from store.tensors.numbers import count, values
from store.tensors.raw import RawTensor

OUT, DOWN = "self_attn.o_proj.weight", "mlp.down_proj.weight"
"""Attention's output projection and the MLP's down projection, in a layer."""
NORMS = ("post_feedforward_layernorm.weight", "post_mlp_layernorm.weight", "post_self_attn_layernorm.weight")
"""Norms of a layer that stand between a projection and the residual stream: what one column writes then depends on
all others."""


def projection(tensors: Mapping[str, RawTensor], layer: int, name: str) -> Numbers | str:
    """This layer's projection as float32 `(hidden_size, inputs)`; or in words why there is none to speak of."""
    place = f"layers.{layer}."
    parts = {whole.partition(place)[2]: whole for whole in tensors if _is_in(whole, place)}
    if norm := next((norm for norm in NORMS if norm in parts), None):
        return f"layer {layer} writes through {norm.removesuffix('.weight')}: {name.removesuffix('.weight')} left out"
    if name not in parts:
        kinds = sorted({part.partition(".")[0] for part in parts if "norm" not in part})
        return f"layer {layer} has {' and '.join(kinds) or 'nothing'}, without {name.removesuffix('.weight')}"
    return floats(tensors[parts[name]])


def floats(raw: RawTensor) -> Numbers:
    """A tensor of floating-point numbers as float32, in its shape."""
    found: Numbers = values(raw, 0, count(raw)).astype(np.float32).reshape(raw.shape)
    return found


def _is_in(name: str, place: str) -> bool:
    """Whether a tensor belongs to this layer of the language model."""
    before, found, _ = name.partition(place)
    return bool(found) and before in ("", "model.", "model.language_model.")
