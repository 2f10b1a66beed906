"""The keys, values and states that the model computed for contexts, cached for their continuations.

`States` gives the cached states to a model of transformers.

Invariant: the cache is written only while contexts are read. So a layer may be computed again later, and one
continuation does not affect another. This module knows nothing about tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.cache_utils import Cache, LinearAttentionLayer

Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(kw_only=True)
class PrefixCache:
    """Keys, values and states of contexts, by layer and by number of the context."""

    attention: dict[int, dict[int, Pair]] = field(default_factory=dict)
    """Keys and values, each (key heads, tokens, head size)."""
    recurrent: dict[int, dict[int, list[torch.Tensor]]] = field(default_factory=dict)
    """Convolution state (1, channels, kernel) and recurrent state (1, heads, key size, value size)."""


class States(Cache):  # type: ignore[misc]
    """The initial states of recurrent layers in one pass; keys and values pass through unchanged."""

    def __init__(self, past: PrefixCache, lanes: Sequence[int], *, reading: bool, layers: int) -> None:
        """Prepare the initial states.

        Args:
            past: The cache of the contexts.
            lanes: Number of the context that each lane (row) continues.
            reading: Whether to store the states after the last token in `past`.
            layers: Number of the model's layers.
        """
        super().__init__(layers=[LinearAttentionLayer() for _ in range(layers)])
        self._past, self._lanes, self._reading = past, lanes, reading
        for number, layer in enumerate(self.layers):
            layer.record_past = True  # otherwise a single token would change the state in place
            known = past.recurrent.get(number)
            if known and not self._reading:
                blank = [torch.zeros_like(part) for part in next(iter(known.values()))]
                rows = [known.get(context, blank) for context in lanes]
                layer.conv_states[0], layer.recurrent_states[0] = (
                    torch.cat(parts) for parts in zip(*rows, strict=True)
                )

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        """Return whether the layer continues from a state."""
        return not self._reading and bool(self._past.recurrent.get(layer_idx or 0))

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Return this pass's keys and values unchanged; `packing.attend` adds those of the context."""
        return key_states, value_states

    def update_conv_state(
        self,
        conv_states: torch.Tensor,
        layer_idx: int,
        state_idx: int = 0,
        conv_kernel_size: int = 0,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Return the convolution's inputs, with those of the context in front: (lanes, channels, tokens)."""
        if self.has_previous_state(layer_idx):
            return torch.cat([self.layers[layer_idx].conv_states[0], conv_states], dim=-1)
        if self._reading:
            padded = torch.nn.functional.pad(conv_states, (conv_kernel_size, 0))
            self._keep(layer_idx, padded[..., -conv_kernel_size:])
        return conv_states

    def update_recurrent_state(
        self, recurrent_states: torch.Tensor, layer_idx: int, state_idx: int = 0, **kwargs: Any
    ) -> torch.Tensor:
        """Return the state after the last token unchanged; store it if a context is being read."""
        if self._reading:
            self._keep(layer_idx, recurrent_states)
        return recurrent_states

    def _keep(self, layer: int, state: torch.Tensor) -> None:
        kept = self._past.recurrent.setdefault(layer, {})
        kept.setdefault(self._lanes[0], []).append(state)
