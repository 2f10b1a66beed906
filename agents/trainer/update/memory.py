"""Whether an update fits into memory, said before its first step and with the numbers.

What a token takes is not guessed from the configuration: a few tokens are sent through the model itself and what
autograd keeps of them is counted. Invariant: the estimate is for the longest examples that could meet in one pass,
without shared contexts, so it is not below what that pass needs. Not counted: the weights, which are there
already, the optimizer's own temporaries, the kernels' workspace, and what the allocator loses to fragments.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from agents.trainer.messages import Example, Settings
from agents.trainer.ram import ram_free
from agents.trainer.scoring import prefix_scoring
from corpus.errors import GateRefused

MIB = 2**20
PROBED = (16, 48)
"""Tokens of the two answers by which what a token takes is measured; their difference has no fixed part in it."""
LOGIT_COPIES = 3
"""float32 values for each entry of the logits: themselves or their cast, their log-softmax, their gradient."""
READING = 2 / 3
"""Share of what a layer keeps for gradients that it needs at one time when it keeps nothing; measured: 0.4 to 0.6."""


@dataclass(frozen=True, kw_only=True)
class PerToken:
    """What a model takes, in bytes."""

    past: float
    """Of each token of a context that was read: keys and values of all layers."""
    state: float
    """Of each context: recurrent layers' states."""
    kept: float
    """Of each token that gets gradients: what autograd keeps of all layers, without attention's keys and values."""
    layers: int
    hidden: float
    """Of one token's hidden state."""
    logits: float
    """Of one token's logits, in float32."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """What an update takes at its peak beside the weights, in bytes."""

    gradients: float
    optimizer: float
    contexts: float
    """Keys, values and states of the contexts, and the copies that attention keeps of them."""
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.gradients + self.optimizer + self.contexts + self.activations + self.logits

    def __str__(self) -> str:
        return ", ".join(f"{part.name} {getattr(self, part.name) / MIB:.0f}" for part in fields(self))


def require_room(model: Any, settings: Settings, examples: Sequence[Example], optimizer_bytes: int) -> Room:
    """Raise `GateRefused` unless this update fits into what is free now; returns the estimate.

    `optimizer_bytes` is what the optimizer's state will take beside what is allocated already.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = [p.numel() * p.element_size() for p in trained]
    room = estimate(measure(model), settings, examples, gradients, optimizer_bytes)
    free = free_bytes(trained[0].device)
    if room.total > free:
        hints = []
        if (settings.micro_batch or settings.batch_size) > 1:
            hints.append("a smaller micro_batch")
        if not settings.activation_checkpointing:
            hints.append("activation_checkpointing = true")
        if settings.context_gradient:
            hints.append("context_gradient = false")
        raise GateRefused(
            f"the update needs {room.total / MIB:.0f} MiB ({room}) and {free / MIB:.0f} MiB are free; "
            f"try {', '.join([*hints, 'a lower rank'])}, or leave out the longest examples"
        )
    return room


def measure(model: Any) -> PerToken:
    """What this model takes for each token, found by sending a few through it."""
    past = prefix_scoring.read(model, [(0,) * PROBED[0]])
    pairs = [pair for layer in past.attention.values() for pair in layer.values()]
    states = [state for layer in past.recurrent.values() for kept in layer.values() for state in kept]
    few, more = (_kept(model, tokens) for tokens in PROBED)
    head = model.get_output_embeddings().weight
    logits, each = 4.0 * head.shape[0], sum(k[:, :1].nbytes + v[:, :1].nbytes for k, v in pairs)
    return PerToken(
        past=each,
        state=sum(state.nbytes for state in states),
        kept=max((more - few) / (PROBED[1] - PROBED[0]) - logits - each, 0.0),
        layers=len(model.base_model.layers),
        hidden=head.shape[1] * head.element_size(),
        logits=logits,
    )


def _kept(model: Any, tokens: int) -> int:
    """Bytes that autograd keeps of an answer of so many tokens behind a context of one, beside the parameters."""
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}
    alive = []  # or a later tensor could take the place, and the address, of one that was counted

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage.nbytes()
            alive.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        prefix_scoring.scores(model, [[0]], [[[0] * tokens]], train=True)
    return sum(found.values())


def estimate(
    per: PerToken,
    settings: Settings,
    examples: Sequence[Example],
    gradients: Sequence[int],
    optimizer_bytes: int,
) -> Room:
    """What the largest pass of this update takes; `gradients` are the bytes of each trained parameter's."""
    count = min(settings.micro_batch or settings.batch_size, len(examples))
    contexts = sorted((len(e.context) for e in examples), reverse=True)[:count]
    answers = sorted((len(e.chosen) + len(e.rejected) for e in examples), reverse=True)[:count]
    read, trained = sum(contexts), sum(answers)
    masks = 4 * sum(a * (c + a) for c, a in zip(contexts, answers, strict=True))
    through = read + trained if settings.context_gradient else trained
    one_layer = per.kept / per.layers
    if settings.activation_checkpointing:
        activations = through * (per.layers * per.hidden + 2 * one_layer)
        logits = min(trained, prefix_scoring.HEAD_TOKENS) * per.logits * LOGIT_COPIES
        copies = 2 * (read + trained) * per.past / per.layers
    else:
        # The backward pass of a layer needs as much again as the layer kept.
        activations = through * (per.kept + one_layer)
        logits = trained * per.logits * LOGIT_COPIES
        copies = (read + trained) * per.past * (1 + 1 / per.layers)
    held = count * per.state + (0 if settings.context_gradient else read * per.past)
    training = Room(
        # An embedding that is tied to the head gets two gradients before they are one.
        gradients=sum(gradients) + max(gradients),
        optimizer=optimizer_bytes,
        contexts=held + copies,
        activations=activations + masks,
        logits=logits,
    )
    if settings.context_gradient:
        return training
    # Contexts are read before anything is kept for gradients, and a layer is freed before the next begins.
    reading = min(read, max(prefix_scoring.READ_TOKENS, contexts[0])) * one_layer * READING
    before = Room(
        gradients=sum(gradients), optimizer=optimizer_bytes, contexts=held, activations=reading, logits=0
    )
    return max(training, before, key=lambda room: room.total)


def free_bytes(device: torch.device) -> int:
    """What can still be allocated on this device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return ram_free()
