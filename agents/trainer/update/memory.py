"""Checks before an update's first step that the update fits into memory.

Invariant: the memory for a token is measured, not derived from the configuration. A few tokens go through the
model itself, and the bytes that autograd keeps for them are counted. The formulas are those of
`agents.trainer.memory_estimate`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from agents.trainer.memory_estimate import MemoryEstimate, TokenCosts, estimate, format_bytes, free_ram
from agents.trainer.messages import Example, Settings
from agents.trainer.scoring import prefix_scoring
from corpus.errors import GateRefused

PROBED = (16, 48)
"""Lengths in tokens of the two measured answers. The costs come from the difference of the two measurements,
so that bytes that do not depend on the length cancel out."""


def require_memory(
    model: Any, settings: Settings, examples: Sequence[Example], optimizer_bytes: int
) -> MemoryEstimate:
    """Return this update's memory estimate; raise GateRefused if it does not fit into the free memory.

    `optimizer_bytes`: bytes of the optimizer's state that are still to be allocated.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = [p.numel() * p.element_size() for p in trained]
    needed = estimate(measure(model), settings, examples, gradients, optimizer_bytes)
    if settings.compute == "bfloat16":
        needed = replace(needed, rounded=sum(2 * p.numel() for p in trained if p.element_size() > 2))
    free = free_bytes(trained[0].device)
    if needed.total > free:
        hints = []
        if (settings.micro_batch or settings.batch_size) > 1:
            hints.append("a smaller micro_batch")
        if not settings.activation_checkpointing:
            hints.append("activation_checkpointing = true")
        if settings.context_gradient:
            hints.append("context_gradient = false")
        raise GateRefused(
            f"the update needs {format_bytes(needed.total)} ({needed}) and {format_bytes(free)} are free; "
            f"try {', '.join([*hints, 'a lower rank'])}, or leave out the longest examples"
        )
    return needed


def measure(model: Any) -> TokenCosts:
    """Return the memory that this model needs for each token, measured with a few tokens."""
    past = prefix_scoring.read(model, [(0,) * PROBED[0]])
    pairs = [pair for layer in past.attention.values() for pair in layer.values()]
    states = [state for layer in past.recurrent.values() for kept in layer.values() for state in kept]
    few, more = (_kept_bytes(model, tokens) for tokens in PROBED)
    head = model.get_output_embeddings().weight
    logits, each = 4.0 * head.shape[0], sum(k[:, :1].nbytes + v[:, :1].nbytes for k, v in pairs)
    return TokenCosts(
        past=each,
        state=sum(state.nbytes for state in states),
        kept=max((more - few) / (PROBED[1] - PROBED[0]) - logits - each, 0.0),
        layers=len(model.base_model.layers),
        hidden=head.shape[1] * head.element_size(),
        logits=logits,
    )


def _kept_bytes(model: Any, tokens: int) -> int:
    """Return the bytes that autograd keeps for an answer of `tokens` tokens after a one-token context.

    Parameters are not counted.
    """
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}
    alive = []  # keeps counted storages alive, so that no later tensor gets the address of one

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        prefix_scoring.scores(model, [[0]], [[[0] * tokens]], train=True)
    return sum(kept.values())


def free_bytes(device: torch.device) -> int:
    """Return the bytes that can still be allocated on this device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free_ram()
