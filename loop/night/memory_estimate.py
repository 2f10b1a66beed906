"""What an update of a served model needs beside the weights, estimated without loading anything: pure.

The trainer measures the same before every update (`agents/trainer/update/memory.py`), by sending tokens through the model;
here only the manifest's shapes are known. Invariant: nothing that scales with the model is left out. Knows no machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import prod

from agents.model.describe import DTYPE_BYTES
from agents.trainer.messages import Settings
from corpus.aliases import Json
from store.tensors.raw import Kinds
from store.tensors.raw import size as size_of

MIB, GIB = 2**20, 2**30
CONTEXT_TOKENS = 512
"""Tokens of a long context, for the estimate."""
LOGIT_COPIES = 3
"""float32 values for each entry of the logits, as in the trainer's own estimate."""


def size(nbytes: float) -> str:
    """So many bytes, as a person reads them."""
    return f"{nbytes / GIB:.2f} GiB" if nbytes >= GIB else f"{nbytes / MIB:.1f} MiB"


@dataclass(frozen=True, kw_only=True)
class Room:
    """Bytes."""

    gradients: int
    optimizer: int
    activations: int
    """Of one pass: what is kept for gradients, the contexts' keys and values, the logits."""
    copy: int
    """Of the weights, on the way to a checkpoint file."""

    @property
    def total(self) -> int:
        """The most that is needed at one time: gradients and activations have gone when a checkpoint is written."""
        return self.optimizer + max(self.gradients + self.activations, self.copy)

    def __str__(self) -> str:
        return ", ".join(f"{part.name} {size(getattr(self, part.name))}" for part in fields(self))


def need(
    entries: Sequence[Json], config: Json, settings: Settings, *, answer_tokens: int, copied: bool
) -> Room:
    """What an update needs.

    entries: the manifest's. config: of the text model. answer_tokens: the longest answer. copied: whether a
    checkpoint is written from a copy of the weights (those on a GPU are), not from where they lie.
    """
    unique = list({entry["offset"]: entry for entry in entries}.values())
    sizes = [prod(entry["shape"]) * DTYPE_BYTES[entry["dtype"]] for entry in unique]
    return Room(
        # An embedding that is tied to the head gets two gradients before they are one.
        gradients=sum(sizes) + max(sizes),
        optimizer=sum(
            _state(entry["shape"], settings, bf16=entry["dtype"] == "bfloat16") for entry in unique
        ),
        activations=_pass(unique, config, settings, answer_tokens),
        copy=sum(sizes) if copied else 0,
    )


def checkpoint_bytes(kinds: Kinds, settings: Settings) -> int:
    """The most that an update's checkpoint takes on the disk: the weights whole, and the optimizer's state.

    A delta is told as a whole once it passes half of one, and its own file is gone before that is written.
    """
    states = (_state(shape, settings, bf16=dtype == "BF16") for dtype, shape in kinds.values())
    return size_of(kinds) + sum(states)


def _state(shape: Sequence[int], settings: Settings, *, bf16: bool) -> int:
    """Apollo's two moments of a projected matrix, Adam's of anything else, in float32; and a master of bfloat16."""
    moment = prod(shape)
    if len(shape) == 2:
        moment = min(settings.rank, *shape) * max(shape)
    master = prod(shape) if settings.master_weights and bf16 else 0
    return 4 * (2 * moment + master)


def _pass(unique: Sequence[Json], config: Json, settings: Settings, answer_tokens: int) -> int:
    """Of the largest pass: each matrix's input and output are kept of every token that gets a gradient."""
    pairs = settings.micro_batch or settings.batch_size
    trained, read = pairs * 2 * answer_tokens, pairs * CONTEXT_TOKENS
    if settings.context_gradient:
        trained, read = trained + read, 0
    value = DTYPE_BYTES[unique[0]["dtype"]]
    inside = [e["shape"] for e in unique if len(e["shape"]) == 2 and config["vocab_size"] not in e["shape"]]
    kept = value * sum(sum(shape) for shape in inside)
    layers, hidden = config["num_hidden_layers"], config["hidden_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    past = 2 * value * layers * head * config.get("num_key_value_heads", config["num_attention_heads"])
    if settings.activation_checkpointing:
        kept = layers * hidden * value + 2 * kept // layers
    else:
        kept += kept // layers  # the backward pass of a layer needs as much again
    logits = 4 * config["vocab_size"] * LOGIT_COPIES
    return int(trained * (kept + logits + past) + 2 * read * past)
