"""Reads and steers the residual stream of a model.

Reading takes the stream at each text's last token, and the input of attention's output projection there. The
forward pass ends at the deepest requested layer. Steering adds a direction to the stream of every token. It
serves preventative steering (arXiv 2507.21509, section 5.2): an update trains a model that is steered towards
a trait, so the gradient need not move the weights towards this trait. When the model is served, the direction
is gone.

Invariant: a text's result depends on its own tokens alone, up to rounding, and a pass that ends early gives
exactly the bits of a whole pass. Nothing is normalised, and no hook stays on the model. This module knows
nothing about concepts.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from agents.model.steering.wire import Direction
from agents.trainer.scoring.packing import Tokens
from agents.trainer.scoring.prefix_scoring import device_of
from corpus.errors import TrainerFault

CHUNK = 16
"""Most texts in one forward pass."""
CHUNK_TOKENS = 8192
"""Most tokens in one forward pass, with padding, unless one text is longer."""


class _Done(Exception):
    """Raised to end the forward pass after the deepest requested layer."""


@dataclass(frozen=True, kw_only=True)
class StreamReading:
    """The values read at each text's last token."""

    stream: torch.Tensor
    """The residual stream after each layer: (texts, layers, hidden) float32 on the CPU."""
    heads: dict[int, torch.Tensor]
    """By layer, the input of attention's output projection: (texts, heads, head size) float32 on the CPU."""
    skipped: dict[int, str]
    """By layer, the name of the attention's class, if its heads were requested and cannot be separated."""


def read(
    model: Any, texts: Sequence[Tokens], layers: Sequence[int], heads: Sequence[int] = ()
) -> StreamReading:
    """Return the values of these layers (from 0) at each text's last token, in the order of `texts`.

    `heads`: the layers whose inputs of attention's output projection are returned too.
    """
    decoder = model.base_model
    if any(not text for text in texts) or any(
        not 0 <= layer < len(decoder.layers) for layer in (*layers, *heads)
    ):
        raise TrainerFault(f"texts need a token each, and layers are 0 to {len(decoder.layers) - 1}")
    device = device_of(model, texts)
    projections = {layer: _projection(decoder, layer) for layer in heads}
    known = {layer: module for layer, module in projections.items() if isinstance(module, nn.Module)}
    # Texts of similar length go together; the sort is stable, so that equal requests make equal batches.
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    parts = [_pass(decoder, [texts[i] for i in part], layers, known, device) for part in chunks(texts, order)]
    back = torch.tensor(order).argsort()
    no_texts = torch.empty(0, len(layers), model.get_input_embeddings().weight.shape[1])
    return StreamReading(
        stream=torch.cat([stream for stream, _ in parts])[back] if parts else no_texts,
        heads={
            layer: _split(torch.cat([inputs[layer] for _, inputs in parts])[back], model.config)
            for layer in known
            if parts
        },
        skipped={layer: name for layer, name in projections.items() if isinstance(name, str)},
    )


def residuals(model: Any, texts: Sequence[Tokens], layers: Sequence[int]) -> torch.Tensor:
    """Return the residual stream after these layers: see `StreamReading.stream`."""
    return read(model, texts, layers).stream


def chunks(texts: Sequence[Tokens], order: Sequence[int]) -> list[list[int]]:
    """Return the texts' indices in batches; `order`: all indices, from the shortest text to the longest."""
    chunks: list[list[int]] = []
    for i in order:
        full = not chunks or len(chunks[-1]) == CHUNK or (len(chunks[-1]) + 1) * len(texts[i]) > CHUNK_TOKENS
        chunks.append([i]) if full else chunks[-1].append(i)
    return chunks


@torch.no_grad()
def _pass(
    decoder: Any,
    texts: Sequence[Tokens],
    layers: Sequence[int],
    heads: dict[int, nn.Module],
    device: torch.device,
) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    """Run one forward pass and return what was read.

    The first result is the stream, (texts, layers, hidden). The second has, by layer, the input of
    attention's output projection, (texts, heads times head size).
    """
    tokens, mask = pad(texts, device)
    rows, last = torch.arange(len(texts), device=device), mask.sum(dim=1) - 1
    streams: dict[int, torch.Tensor] = {}
    inputs: dict[int, torch.Tensor] = {}
    deepest = max((*layers, *heads))

    def after(layer: int) -> Callable[..., None]:
        def hook(module: Any, given: Any, output: Any) -> None:
            stream = output[0] if isinstance(output, tuple) else output
            streams[layer] = stream[rows, last].to(torch.float32)
            if layer == deepest:
                raise _Done

        return hook

    def before(layer: int) -> Callable[..., None]:
        def hook(module: Any, given: Any) -> None:
            inputs[layer] = given[0][rows, last].to(torch.float32)

        return hook

    with ExitStack() as hooks:
        for layer in {*layers, deepest}:
            hooks.callback(decoder.layers[layer].register_forward_hook(after(layer)).remove)
        for layer, projection in heads.items():
            hooks.callback(projection.register_forward_pre_hook(before(layer)).remove)
        try:
            decoder(input_ids=tokens, attention_mask=mask, use_cache=False)
        except _Done:
            pass
    stream = torch.stack([streams[layer] for layer in layers], dim=1)
    return stream.cpu(), {layer: values.cpu() for layer, values in inputs.items()}


def _projection(decoder: Any, layer: int) -> nn.Module | str:
    """Return attention's output projection, or the attention's name if its heads cannot be separated."""
    attention = getattr(decoder.layers[layer], "self_attn", None)
    projection = getattr(attention, "o_proj", None)
    count = getattr(decoder.config, "num_attention_heads", None)
    if isinstance(projection, nn.Linear) and isinstance(count, int) and not projection.in_features % count:
        return projection
    if attention is not None:
        return type(attention).__name__
    named = [type(child).__name__ for name, child in decoder.layers[layer].named_children() if "attn" in name]
    if named:
        return named[0]
    kinds = getattr(decoder.config, "layer_types", None) or ()
    return str(kinds[layer]) if layer < len(kinds) else type(decoder.layers[layer]).__name__


def _split(inputs: torch.Tensor, config: Any) -> torch.Tensor:
    """Reshape (texts, heads times head size) to (texts, heads, head size)."""
    return inputs.view(len(inputs), config.num_attention_heads, -1)


def pad(rows: Sequence[Tokens], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows as (n, longest) int64, padded with zeros on the right, and their mask, int64."""
    longest = max(len(row) for row in rows)
    tokens = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row)] = 1
    return tokens.to(device), mask.to(device)


@contextmanager
def steered(model: Any, directions: Sequence[Direction]) -> Iterator[None]:
    """Add each direction to the stream after its layer, at every token of every pass within the block.

    Contexts and continuations are steered alike, also with activation checkpointing.
    """
    layers, table = model.base_model.layers, model.get_input_embeddings().weight
    handles = []
    try:
        for direction in directions:
            moved = torch.frombuffer(bytearray(direction.data), dtype=torch.float32)
            if not 0 <= direction.layer < len(layers) or moved.shape != table.shape[1:]:
                raise TrainerFault(
                    f"a direction of {len(moved)} values after layer {direction.layer} is another model's: "
                    f"this one has {len(layers)} layers of {table.shape[1]}; run `nightschool readout train`"
                )
            moved = moved.to(device=table.device, dtype=table.dtype)
            handles.append(layers[direction.layer].register_forward_hook(_adding(moved)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adding(direction: torch.Tensor) -> Callable[..., Any]:
    """Return a forward hook that adds the direction to a layer's output."""

    def hook(module: Any, inputs: Any, output: Any) -> Any:
        return (output[0] + direction, *output[1:]) if isinstance(output, tuple) else output + direction

    return hook
