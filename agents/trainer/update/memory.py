"""Whether an update fits into memory, checked before its first step.

Invariant: the costs of a token are not derived from the configuration: a few tokens go through the model
itself, and the bytes that autograd keeps of them are counted. The sums are those of
`agents.trainer.memory_estimate`.
"""

from collections.abc import Sequence
from typing import Any

import torch

from agents.trainer.memory_estimate import MemoryEstimate, TokenCosts, estimate, format_bytes, free_ram
from agents.trainer.messages import Example, Settings
from agents.trainer.scoring import prefix_scoring
from corpus.errors import GateRefused

PROBED = (16, 48)
"""Tokens of the two measured answers; the difference of their bytes has no fixed part."""


def require_memory(
    model: Any, settings: Settings, examples: Sequence[Example], optimizer_bytes: int
) -> MemoryEstimate:
    """Raise GateRefused unless this update fits into the free memory; returns the estimate.

    `optimizer_bytes`: what the optimizer's state will take in addition to what is allocated.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = [p.numel() * p.element_size() for p in trained]
    needed = estimate(measure(model), settings, examples, gradients, optimizer_bytes)
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
    """Measure what this model takes for each token, by sending a few tokens through it."""
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
    """Count the bytes that autograd keeps of an answer of this length after a context of one token.

    Parameters are not counted.
    """
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}
    alive = []  # counted storages stay alive, or a later tensor could take the address of one

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
