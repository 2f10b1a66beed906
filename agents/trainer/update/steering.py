"""A model whose residual stream is moved meanwhile: preventative steering, and log-probabilities of a steered model.

Steering towards a trait that an update should not bring, while it trains, takes away what the gradient would move the
weights there for (preventative steering, arXiv 2507.21509, section 5.2); the vector is gone when the model is served.
Invariant: contexts and continuations are moved alike, with checkpointing too; nothing stays on the model. Knows no
concept.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from agents.model.steering.wire import Direction
from corpus.errors import TrainerFault


@contextmanager
def pushing(model: Any, directions: Sequence[Direction]) -> Iterator[None]:
    """Add each direction to the stream of every token after its layer, in every pass of this model meanwhile."""
    layers, table = model.base_model.layers, model.get_input_embeddings().weight
    handles = []
    try:
        for direction in directions:
            moved = torch.frombuffer(bytearray(direction.data), dtype=torch.float32)
            if not 0 <= direction.layer < len(layers) or moved.shape != table.shape[1:]:
                raise TrainerFault(
                    f"a direction of {len(moved)} values after layer {direction.layer} is another model's: this one "
                    f"has {len(layers)} layers of {table.shape[1]}; run `nightschool readout train`"
                )
            moved = moved.to(device=table.device, dtype=table.dtype)
            handles.append(layers[direction.layer].register_forward_hook(_hook(moved)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(moved: torch.Tensor) -> Any:
    def hook(module: Any, inputs: Any, output: Any) -> Any:
        return (output[0] + moved, *output[1:]) if isinstance(output, tuple) else output + moved

    return hook
