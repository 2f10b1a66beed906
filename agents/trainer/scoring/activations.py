"""The residual stream at texts' last tokens, and what attention hands to its output projection there.

The forward pass ends at the deepest layer that is asked for: what follows is not computed. Invariant: what a text
gives depends on its own tokens alone, up to rounding, and a pass that ends early gives what a whole one gives, to
the bit. Nothing is normalised. Knows no concept.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from agents.trainer.scoring.prefix_scoring import Tokens, device_of
from corpus.errors import TrainerFault

CHUNK = 16
"""Texts in one forward pass, at most."""
CHUNK_TOKENS = 8192
"""Tokens in one forward pass with their padding, unless one text is longer."""


class _Deep(Exception):
    """The deepest layer has been computed: what the model goes on to do is not wanted."""


@dataclass(frozen=True, kw_only=True)
class Read:
    """What was read at each text's last token."""

    stream: torch.Tensor
    """(texts, layers, hidden) float32 on the CPU: the residual stream after each layer."""
    heads: dict[int, torch.Tensor]
    """By layer, (texts, heads, head size) float32 on the CPU: the input of attention's output projection."""
    skipped: dict[int, str]
    """Layers whose heads were asked for and cannot be told apart: the name of what they have for attention."""


def read(model: Any, texts: Sequence[Tokens], layers: Sequence[int], heads: Sequence[int] = ()) -> Read:
    """Read these layers (numbers from 0) of the model at each text's last token, texts of like length together.

    The result is in the order of `texts`.
    """
    decoder = model.base_model
    if any(not text for text in texts) or any(
        not 0 <= layer < len(decoder.layers) for layer in (*layers, *heads)
    ):
        raise TrainerFault(f"texts need a token each, and layers are 0 to {len(decoder.layers) - 1}")
    device = device_of(model, texts)
    projections = {layer: _projection(decoder, layer) for layer in heads}
    known = {layer: found for layer, found in projections.items() if isinstance(found, nn.Module)}
    order = sorted(
        range(len(texts)), key=lambda i: len(texts[i])
    )  # stable: equal requests make equal batches
    parts = [_pass(decoder, [texts[i] for i in part], layers, known, device) for part in chunks(texts, order)]
    back = torch.tensor(order).argsort()
    nothing = torch.empty(0, len(layers), model.get_input_embeddings().weight.shape[1])
    return Read(
        stream=torch.cat([stream for stream, _ in parts])[back] if parts else nothing,
        heads={
            layer: _split(torch.cat([inputs[layer] for _, inputs in parts])[back], model.config)
            for layer in known
            if parts
        },
        skipped={layer: found for layer, found in projections.items() if isinstance(found, str)},
    )


def residuals(model: Any, texts: Sequence[Tokens], layers: Sequence[int]) -> torch.Tensor:
    """The residual stream alone: see `Read.stream`."""
    return read(model, texts, layers).stream


def chunks(texts: Sequence[Tokens], order: Sequence[int]) -> list[list[int]]:
    """The texts' numbers in batches, from the shortest to the longest."""
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
    """One forward pass: (texts, layers, hidden), and by layer (texts, heads times head size)."""
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
                raise _Deep

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
        except _Deep:
            pass
    stream = torch.stack([streams[layer] for layer in layers], dim=1)
    return stream.cpu(), {layer: values.cpu() for layer, values in inputs.items()}


def _projection(decoder: Any, layer: int) -> nn.Module | str:
    """The output projection of this layer's attention; the attention's name where its heads do not lie side by side."""
    attention = getattr(decoder.layers[layer], "self_attn", None)
    projection = getattr(attention, "o_proj", None)
    count = getattr(decoder.config, "num_attention_heads", None)
    if isinstance(projection, nn.Linear) and isinstance(count, int) and not projection.in_features % count:
        return projection
    if attention is not None:
        return type(attention).__name__
    kinds = getattr(decoder.config, "layer_types", None) or ()
    named = [type(child).__name__ for name, child in decoder.layers[layer].named_children() if "attn" in name]
    return (
        named[0]
        if named
        else str(kinds[layer])
        if layer < len(kinds)
        else type(decoder.layers[layer]).__name__
    )


def _split(inputs: torch.Tensor, config: Any) -> torch.Tensor:
    """(texts, heads times head size) as (texts, heads, head size)."""
    return inputs.view(len(inputs), config.num_attention_heads, -1)


def pad(rows: Sequence[Tokens], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows as (n, longest) int64 with zeros on the right, and the mask of what is not padding, int64."""
    longest = max(len(row) for row in rows)
    tokens = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row)] = 1
    return tokens.to(device), mask.to(device)
