"""Packs many sequences end to end into one forward pass, in which only attention separates them.

Everything in a decoder except attention looks at one token at a time. So no row needs padding to the length
of another, and a context's keys and values need no copy for each of its continuations. `attend` replaces the
model's own attention function in such a pass. The rows of a pass are called lanes. Recurrent layers look
along a whole lane, so in a model that has such layers each sequence has its own lane, padded on the right,
and starts from the states after its context.

Invariant: a token attends to its own context and to its own piece up to itself, within the layer's window.
Cached contexts are read and never changed, so a layer may be computed again. This module knows nothing about
losses.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface

from agents.trainer.scoring.prefix_cache import PrefixCache, States
from corpus.errors import TrainerFault

NAME = "nightschool_packed"
"""Name of the attention function in transformers; no mask function has this name, so transformers builds no
mask."""
Tokens = Sequence[int]


class ContextRead(Exception):
    """Raised to end a pass that reads contexts, once the last layer's keys and values are stored."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A run of adjacent tokens of one sequence."""

    tokens: Tokens
    past: int
    """Number of the context that the piece belongs to."""
    first: int = 0
    """Position of the piece's first token: the number of context tokens before the piece."""
    context: bool = False
    """Whether the piece is the whole context itself."""


@dataclass(kw_only=True)
class _Block:
    """A run of adjacent pieces that belong to the same context and attend to the same past."""

    start: int
    stop: int
    past: int
    context: bool
    before: slice | None
    """Where the context's tokens are in this pass; None if the context is not part of the pass."""
    spans: list[tuple[int, int]]
    """Number of tokens and first position of each piece."""


class Packing:
    """One pass: its tokens, their positions, and the tokens that each token attends to."""

    def __init__(
        self,
        lanes: Sequence[Sequence[Piece]],
        past: PrefixCache,
        *,
        device: torch.device,
        last: int | None = None,
    ) -> None:
        """Lay out the pieces of a pass.

        Args:
            lanes: The pieces of each lane, in order.
            past: The cache of the contexts.
            device: Device of the model.
            last: In a pass that reads contexts into `past`: number of the model's last layer, where the pass
                ends. None in any other pass.
        """
        self.past, self.last = past, last
        self.lanes = [lane[-1].past for lane in lanes]
        """Number of the context that each lane continues."""
        self._blocks: list[_Block] = []
        self._masks: dict[tuple[int, int | None], torch.Tensor | None] = {}
        width = max(sum(len(piece.tokens) for piece in lane) for lane in lanes)
        tokens: list[int] = []
        positions: list[int] = []
        picked: list[int] = []
        for lane in lanes:
            end = len(tokens) + width
            for piece in lane:
                start = len(tokens)
                if not piece.context:
                    picked.extend(range(start, start + len(piece.tokens)))
                # The last piece is padded to the longest lane, with zeros that no result depends on.
                size = end - start if piece is lane[-1] else len(piece.tokens)
                tokens.extend([*piece.tokens, *[0] * (size - len(piece.tokens))])
                positions.extend(range(piece.first, piece.first + size))
                self._place(piece, start, start + size, joins=piece is not lane[0])
        shape = (len(lanes), width)
        self.tokens = torch.tensor(tokens, device=device).view(shape)
        """Token ids, (lanes, longest) int64."""
        self.positions = torch.tensor(positions, device=device).view(shape)
        """Position of each token in its sequence, (lanes, longest) int64."""
        self.picked = torch.tensor(picked, dtype=torch.long, device=device)
        """Indices of the continuations' tokens in the flattened lanes, piece by piece."""

    def _place(self, piece: Piece, start: int, stop: int, *, joins: bool) -> None:
        """Add the piece to the block with the same past, or open a new block."""
        left = self._blocks[-1] if joins else None
        if left is not None and not left.context and left.past == piece.past:
            left.stop = stop
            left.spans.append((stop - start, piece.first))
            return
        before = slice(left.start, left.stop) if left and left.context and left.past == piece.past else None
        spans = [(stop - start, piece.first)]
        self._blocks.append(
            _Block(start=start, stop=stop, past=piece.past, context=piece.context, before=before, spans=spans)
        )

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: Any,
        window: int | None,
    ) -> torch.Tensor:
        """Return attention's output for every block; tensors and result are (heads, tokens, head size)."""
        if self.last is not None:
            kept = self.past.attention.setdefault(layer, {})
            kept |= {b.past: (key[:, b.start : b.stop], value[:, b.start : b.stop]) for b in self._blocks}
            if layer == self.last:
                raise ContextRead
        # Split in one operation: the gradient of a slice is a tensor as large as the whole pass, one a block.
        sizes = [block.stop - block.start for block in self._blocks]
        parts = zip(*(torch.split(tensor, sizes, dim=1) for tensor in (query, key, value)), strict=True)
        outputs: list[torch.Tensor] = []
        for number, (block, own) in enumerate(zip(self._blocks, parts, strict=True)):
            q, k, v = own
            if block.before is not None:
                k = torch.cat([key[:, block.before], k], dim=1)
                v = torch.cat([value[:, block.before], v], dim=1)
            elif not block.context and block.past in self.past.attention.get(layer, {}):
                past = self.past.attention[layer][block.past]
                k, v = torch.cat([past[0], k], dim=1), torch.cat([past[1], v], dim=1)
            mask = self._mask(number, k.shape[1], window, query)
            outputs.append(_attention(q, k, v, mask, scale))
        return torch.cat(outputs, dim=1)

    def _mask(self, number: int, keys: int, window: int | None, like: torch.Tensor) -> torch.Tensor | None:
        """Return the mask to add to this block's scores, (tokens, keys); None for plain causal attention."""
        block = self._blocks[number]
        if block.context and (window is None or window >= keys):
            return None
        if (number, window) not in self._masks:
            device = like.device
            lengths = torch.tensor([length for length, _ in block.spans], device=device)
            piece = torch.arange(len(block.spans), device=device).repeat_interleave(lengths)
            firsts = torch.tensor([first for _, first in block.spans], device=device)
            seen = firsts.repeat_interleave(lengths)[:, None]
            mine = self.positions.view(-1)[block.start : block.stop]
            before = torch.arange(keys - len(mine), device=device)
            own = (piece[:, None] == piece) & (mine[:, None] >= mine)
            visible = torch.cat([before < seen, own], dim=1)
            if window is not None:
                visible &= torch.cat([before, mine]) > mine[:, None] - window
            empty = torch.zeros(visible.shape, dtype=like.dtype, device=device)
            self._masks[number, window] = empty.masked_fill_(~visible, -torch.inf)
        return self._masks[number, window]


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: Any
) -> torch.Tensor:
    """Return attention's output, (heads, tokens, head size); shared key heads are not copied.

    On the CPU it is computed in float32 whatever the inputs are: torch's kernel takes half as long so, for
    pieces of some hundred tokens, and the scores are not rounded.
    """
    heads, tokens, _ = query.shape
    groups, kind = heads // key.shape[0], query.dtype
    if query.is_cpu:
        query, key, value = (part.to(torch.float32) for part in (query, key, value))
        mask = None if mask is None else mask.to(torch.float32)
    with torch.autocast(query.device.type, enabled=not query.is_cpu and torch.is_autocast_enabled()):
        out = scaled_dot_product_attention(
            query.reshape(key.shape[0], groups, tokens, -1),
            key[:, None].expand(-1, groups, -1, -1),
            value[:, None].expand(-1, groups, -1, -1),
            attn_mask=mask,
            is_causal=mask is None,
            scale=scale,
        )
    return out.reshape(heads, tokens, -1).to(kind)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    *,
    packing: Packing,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Return attention's output as transformers expects it from an attention function.

    `query`, `key` and `value` are (lanes, heads, tokens, head size). The output is (lanes, tokens, heads,
    head size), with None in place of the attention weights.
    """
    for name in ("softcap", "s_aux", "position_bias"):
        if others.get(name) is not None:
            raise TrainerFault(f"this model's attention has a {name}, which the trainer does not compute")
    lanes, heads, width, _ = query.shape
    flat = [part.transpose(0, 1).flatten(1, 2) for part in (query, key, value)]
    out = packing.attend(module.layer_idx, flat[0], flat[1], flat[2], scaling, sliding_window)
    return out.transpose(0, 1).reshape(lanes, width, heads, -1), None


@contextmanager
def _attending(config: Any) -> Iterator[None]:
    """Make transformers call `attend` within the block."""
    AttentionInterface.register(NAME, attend)
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def forward(model: Any, packing: Packing, *, recurrent: bool, checkpointing: bool = False) -> torch.Tensor:
    """Return the decoder's last hidden states of all lanes, flattened: (lanes * longest, hidden size).

    `recurrent`: whether the model has recurrent layers. `checkpointing`: keep only each layer's input, and
    compute the rest again in the backward pass.
    """
    decoder = model.base_model
    layers = list(decoder.layers) if checkpointing else []
    for layer in layers:
        layer.forward = _recomputed(layer.forward, decoder.config)
    states = None
    if recurrent:
        reading, depth = packing.last is not None, len(decoder.layers)
        states = States(packing.past, packing.lanes, reading=reading, layers=depth)
    try:
        with _attending(decoder.config):
            output = decoder(
                input_ids=packing.tokens,
                position_ids=packing.positions,
                past_key_values=states,
                use_cache=False,
                packing=packing,
            )
    finally:
        for layer in layers:
            del layer.forward
    hidden: torch.Tensor = output.last_hidden_state.flatten(0, 1)
    return hidden


def _recomputed(plain: Any, config: Any) -> Any:
    """Return a layer's forward with activation checkpointing; that of transformers would ignore the past."""

    def packed(*inputs: Any, **named: Any) -> Any:
        with _attending(config):  # entered again when the backward pass computes the layer again
            return plain(*inputs, **named)

    def forward(*inputs: Any, **named: Any) -> Any:
        return checkpoint(packed, *inputs, use_reentrant=False, preserve_rng_state=False, **named)

    return forward
