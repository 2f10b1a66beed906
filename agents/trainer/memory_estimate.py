"""Estimates the memory that an update needs beside the weights, from sizes alone and without torch.

The trainer measures the bytes that its model keeps for a token (`update/memory.py`), and refuses an update
that does not fit. `nightschool doctor` knows only the shapes in the manifest of the shared weights, and
warns. Both use the formulas of this module.

Invariant: the estimate is for the largest possible pass: the longest examples together, none of which share a
context. So no pass needs more of what is counted. Not counted: the weights themselves, the optimizer's
temporaries, the kernels' workspace, and what the allocator loses to fragmentation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import prod
from pathlib import Path

from agents.model.describe import DTYPE_BYTES
from agents.trainer.messages import Example, Settings
from corpus.aliases import Json
from store.tensors.raw import TensorSpecs
from store.tensors.raw import size as size_of

MIB, GIB = 2**20, 2**30
CONTEXT_TOKENS = 512
"""Assumed number of tokens of a long context, when no examples are known."""
READ_TOKENS = 8192
"""Most context tokens in one pass of scoring, unless a single context is longer."""
HEAD_TOKENS = 1024
"""Most tokens whose logits scoring computes at a time, when the logits need not be kept for gradients."""
LOGIT_COPIES = 3
"""Number of float32 values in memory for each logit: the logit or its cast, its log-softmax, its gradient."""
READING_SHARE = 2 / 3
"""Memory of a layer in a pass without gradients, as a share of the bytes that the layer keeps in a pass with
gradients; measured: 0.4 to 0.6."""
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class TokenCosts:
    """The bytes of memory that a model needs for each token and each context."""

    past: float
    """For each token of a context: keys and values of all layers."""
    state: float
    """For each context: states of the recurrent layers."""
    kept: float
    """For each token with gradients: all that autograd keeps, without attention's keys and values."""
    layers: int
    hidden: float
    """For each token: its hidden state."""
    logits: float
    """For each token: its logits in float32."""


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """The peak of an update's memory beside the weights, in bytes."""

    gradients: float
    optimizer: float
    contexts: float
    """Keys, values and states of the contexts, and the copies that attention keeps of them."""
    activations: float
    logits: float
    copy: float = 0
    """A copy of the weights on the way to a checkpoint file."""
    rounded: float = 0
    """The weights in bfloat16, if matrices are multiplied in bfloat16 and the weights are wider."""

    @property
    def total(self) -> float:
        """The peak in bytes. Gradients and activations are freed before the weights are copied."""
        training = self.gradients + self.contexts + self.activations + self.logits + self.rounded
        return self.optimizer + max(training, self.copy)

    def __str__(self) -> str:
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        return ", ".join(f"{name} {format_bytes(nbytes)}" for name, nbytes in parts.items() if nbytes)


def estimate(
    costs: TokenCosts,
    settings: Settings,
    examples: Sequence[Example],
    gradients: Sequence[int],
    optimizer_bytes: int,
    copy: int = 0,
) -> MemoryEstimate:
    """Return the estimated memory of an update's largest pass.

    Args:
        costs: The model's memory for each token.
        settings: Settings of the update.
        examples: Examples of the update.
        gradients: Bytes of each parameter's gradient.
        optimizer_bytes: Bytes of the optimizer's state that are still to be allocated.
        copy: Bytes of a copy of the weights on the way to a checkpoint file; 0 without a copy.
    """
    count = min(settings.micro_batch or settings.batch_size, len(examples))
    contexts = sorted((len(e.context) for e in examples), reverse=True)[:count]
    answers = sorted((len(e.chosen) + len(e.rejected) for e in examples), reverse=True)[:count]
    read, trained = sum(contexts), sum(answers)
    masks = 4 * sum(a * (c + a) for c, a in zip(contexts, answers, strict=True))
    differentiated = read + trained if settings.context_gradient else trained
    one_layer = costs.kept / costs.layers
    if settings.activation_checkpointing:
        activations = differentiated * (costs.layers * costs.hidden + 2 * one_layer)
        logits = min(trained, HEAD_TOKENS) * costs.logits * LOGIT_COPIES
        copies = 2 * (read + trained) * costs.past / costs.layers
    else:
        # The backward pass of a layer needs as much again as the layer kept.
        activations = differentiated * (costs.kept + one_layer)
        logits = trained * costs.logits * LOGIT_COPIES
        copies = (read + trained) * costs.past * (1 + 1 / costs.layers)
    held = count * costs.state + (0 if settings.context_gradient else read * costs.past)
    training = MemoryEstimate(
        # An embedding that is tied to the head has two gradients until they are added.
        gradients=sum(gradients) + max(gradients),
        optimizer=optimizer_bytes,
        contexts=held + copies,
        activations=activations + masks,
        logits=logits,
        copy=copy,
    )
    if settings.context_gradient:
        return training
    # Contexts are read before anything is kept for gradients, and a layer is freed before the next begins.
    reading = min(read, max(READ_TOKENS, contexts[0])) * one_layer * READING_SHARE
    before = MemoryEstimate(
        gradients=sum(gradients),
        optimizer=optimizer_bytes,
        contexts=held,
        activations=reading,
        logits=0,
        copy=copy,
    )
    return max(training, before, key=lambda each: each.total)


def estimate_from_shapes(
    entries: Sequence[Json], config: Json, settings: Settings, *, answer_tokens: int, copied: bool
) -> MemoryEstimate:
    """Return the estimated memory of an update of a model that is not loaded.

    Args:
        entries: The tensors' entries in the manifest of the shared weights.
        config: Configuration of the text model.
        settings: Settings of the update.
        answer_tokens: Length of the longest answer.
        copied: Whether checkpoints are written from a copy of the weights, as they are for weights on a GPU.
    """
    unique = list({entry["offset"]: entry for entry in entries}.values())
    shapes = [tuple(entry["shape"]) for entry in unique]
    sizes = [prod(entry["shape"]) * DTYPE_BYTES[entry["dtype"]] for entry in unique]
    states = (
        optimizer_state_bytes(entry["shape"], settings.rank, master=_has_master(settings, entry["dtype"]))
        for entry in unique
    )
    longest = Example(
        context=range(CONTEXT_TOKENS), chosen=range(answer_tokens), rejected=range(answer_tokens)
    )
    return estimate(
        _costs_from_shapes(shapes, config, DTYPE_BYTES[unique[0]["dtype"]]),
        settings,
        [longest] * settings.batch_size,
        sizes,
        sum(states),
        sum(sizes) if copied else 0,
    )


def _costs_from_shapes(shapes: Sequence[tuple[int, ...]], config: Json, value_bytes: int) -> TokenCosts:
    """Return the costs if each matrix's input and output are kept for every token with a gradient."""
    vocabulary, layers, hidden = config["vocab_size"], config["num_hidden_layers"], config["hidden_size"]
    attention_heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // attention_heads
    inner = [shape for shape in shapes if len(shape) == 2 and vocabulary not in shape]
    return TokenCosts(
        past=2 * value_bytes * layers * head_dim * config.get("num_key_value_heads", attention_heads),
        state=0,
        kept=value_bytes * sum(sum(shape) for shape in inner),
        layers=layers,
        hidden=hidden * value_bytes,
        logits=4 * vocabulary,
    )


def optimizer_state_bytes(shape: Sequence[int], rank: int, *, master: bool) -> int:
    """Return the bytes of a parameter's two float32 moments and, with `master`, its float32 copy.

    The moments of a matrix have the shape of its projection to `rank`.
    """
    moment = min(rank, *shape) * max(shape) if len(shape) == 2 else prod(shape)
    return 4 * (2 * moment + (prod(shape) if master else 0))


def checkpoint_bytes(specs: TensorSpecs, settings: Settings) -> int:
    """Return the most bytes that an update's checkpoint takes on disk: all weights and the optimizer's state.

    The store first writes a delta (the difference from another checkpoint). If the delta is larger than half
    of the weights, the store deletes its file and writes all weights instead.
    """
    states = (
        optimizer_state_bytes(shape, settings.rank, master=_has_master(settings, dtype))
        for dtype, shape in specs.values()
    )
    return size_of(specs) + sum(states)


def _has_master(settings: Settings, dtype: str) -> bool:
    """Return whether parameters of this dtype (named by torch or safetensors) have a master copy."""
    return settings.master_weights and dtype in ("bfloat16", "BF16")


def format_bytes(nbytes: float) -> str:
    """Return a number of bytes as text in MiB or GiB."""
    return f"{nbytes / GIB:.2f} GiB" if nbytes >= GIB else f"{nbytes / MIB:.1f} MiB"


def free_ram() -> int:
    """Return the bytes of RAM that can still be allocated."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    available = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return min([available, *cgroup_allowance(CGROUP)])


def cgroup_allowance(folder: Path) -> list[int]:
    """Return a list with the bytes that this control group (version 2) still allows; empty if unlimited."""
    try:
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        figures = dict(line.split() for line in lines)
    except (OSError, ValueError):
        return []
    # Cached pages of files that nobody uses count as used, and are freed on demand.
    return [] if limit == "max" else [int(limit) - used + int(figures.get("inactive_file", 0))]
