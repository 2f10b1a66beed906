"""The forward pass of a small dense Qwen3 model in plain torch, for fast batched generation on a CPU.

It is fast for three reasons. Prompts are packed instead of padded. Keys and values are written into buffers
that are allocated beforehand, and are not repeated for each query head. In the last layer, only the last
token of a prompt is computed.

Invariant: it computes the same as `Qwen3ForCausalLM` (a test compares the two), and reads the parameters of
that Hugging Face model at every pass. This module knows nothing about sampling, text or requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from agents.model.embedded.activation_steering import BatchOffsets, Offsets

PREFILL_TOKENS = 768
"""Prompt tokens in one pass: few enough for the activations to stay in the processor's cache."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The parameters of one decoder layer: matrices `(out, in)`, and norms `(size,)`."""

    before: torch.Tensor
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    o: torch.Tensor
    q_norm: torch.Tensor
    k_norm: torch.Tensor
    between: torch.Tensor
    gate: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor


class Qwen3Forward:
    """See `agents.model.embedded.forward.Forward`."""

    @staticmethod
    def fits(model: Any) -> bool:
        """Return whether this implementation computes the same as the Hugging Face model `model`."""
        config = model.config
        return (
            config.model_type == "qwen3"
            and config.hidden_act == "silu"
            and not config.attention_bias
            and set(config.layer_types) == {"full_attention"}
            and config.rope_parameters["rope_type"] == "default"
            and all(parameter.dtype == torch.float32 for parameter in model.parameters())
        )

    def __init__(self, model: Any) -> None:
        config = model.config
        self.eps: float = config.rms_norm_eps
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.head_dim: int = config.head_dim
        self.layers = [_layer(layer) for layer in model.model.layers]
        self.embedding: torch.Tensor = model.model.embed_tokens.weight
        self.head: torch.Tensor = model.lm_head.weight
        self.norm: torch.Tensor = model.model.norm.weight
        self._cos, self._sin = _rotations(model.model.rotary_emb.inv_freq, config.max_position_embeddings)

    def begin(
        self, prompts: Sequence[Sequence[int]], max_tokens: int, offsets: Sequence[Offsets] = ()
    ) -> tuple["Qwen3Session", torch.Tensor]:
        """See `Forward.begin`."""
        session = Qwen3Session(self, [len(prompt) for prompt in prompts], max_tokens, BatchOffsets(offsets))
        logits, first, tokens = [], 0, 0
        for row, prompt in enumerate(prompts):
            tokens += len(prompt)
            if tokens >= PREFILL_TOKENS or row + 1 == len(prompts):
                logits.append(session.read(prompts[first : row + 1], first))
                first, tokens = row + 1, 0
        return session, torch.cat(logits)

    def normed(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return `x` with its last dimension normalised by the root mean square, times `weight`."""
        return F.rms_norm(x, weight.shape, weight, self.eps)

    def rotation(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rotary embedding's cosines and signed sines at these positions.

        Returns:
            Two tensors, each `(tokens, 1, head_dim)`.
        """
        return self._cos[positions][:, None], self._sin[positions][:, None]

    def rotated(self, x: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Return `x`, `(tokens, heads, head_dim)`, with the rotary embedding applied.

        The halves of each head are swapped; the signs are in the sines of `rotation`.
        """
        half = self.head_dim // 2
        return torch.addcmul(x * rotation[0], torch.cat((x[..., half:], x[..., :half]), -1), rotation[1])

    def keys_values(
        self, layer: Layer, h: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values, each `(tokens, kv_heads, head_dim)`.

        `h` is the layer's normed input, `(tokens, hidden)`.
        """
        shape = (len(h), self.kv_heads, self.head_dim)
        keys = self.normed(F.linear(h, layer.k).view(shape), layer.k_norm)
        return self.rotated(keys, rotation), F.linear(h, layer.v).view(shape)

    def queries(
        self, layer: Layer, h: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """Return queries, `(tokens, heads, head_dim)`, of normed states `h`, `(tokens, hidden)`."""
        q = F.linear(h, layer.q).view(len(h), self.heads, self.head_dim)
        return self.rotated(self.normed(q, layer.q_norm), rotation)

    def after_attention(self, layer: Layer, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Return the layer's output, `(tokens, hidden)`.

        Args:
            layer: The layer.
            x: The layer's input, `(tokens, hidden)`.
            attended: The result of its attention, `(tokens, heads * head_dim)`.
        """
        x = x + F.linear(attended, layer.o)
        h = self.normed(x, layer.between)
        inner = F.silu(F.linear(h, layer.gate)).mul_(F.linear(h, layer.up))
        return x.add_(F.linear(inner, layer.down))

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, `(rows, vocab_size)`, of the last layer's output `x`, `(rows, hidden)`."""
        return F.linear(self.normed(x, self.norm), self.head)


class Qwen3Session:
    """See `forward.Session`.

    The rows lie flush right in the buffers: all of them end at the same position, whatever their lengths.
    """

    def __init__(
        self, model: Qwen3Forward, lengths: Sequence[int], max_tokens: int, offsets: BatchOffsets
    ) -> None:
        self._model, self._offsets = model, offsets
        self._filled = max(lengths)
        self._positions = torch.tensor(lengths)
        size = (len(lengths), model.kv_heads, self._filled + max_tokens, model.head_dim)
        self._keys = [torch.empty(size) for _ in model.layers]
        self._values = [torch.empty(size) for _ in model.layers]
        for buffer in (*self._keys, *self._values):
            # Positions before a row's start are masked, but NaN times zero is still NaN.
            buffer[:, :, : self._filled] = 0
        starts = self._filled - self._positions
        places = torch.arange(self._filled + max_tokens)
        self._mask = torch.zeros(len(lengths), 1, 1, len(places))
        self._mask.masked_fill_((places < starts[:, None])[:, None, None], float("-inf"))

    def read(self, prompts: Sequence[Sequence[int]], first: int) -> torch.Tensor:
        """Read the prompts of the rows from `first` on; return their logits, `(prompts, vocab_size)`."""
        model = self._model
        lengths = [len(prompt) for prompt in prompts]
        ends = torch.tensor(lengths).cumsum(0)
        rotation = model.rotation(torch.cat([torch.arange(length) for length in lengths]))
        x = model.embedding[torch.tensor([token for prompt in prompts for token in prompt])]
        for number, layer in enumerate(model.layers):
            h = model.normed(x, layer.before)
            keys, values = model.keys_values(layer, h, rotation)
            self._store(number, first, lengths, keys, values)
            if number + 1 < len(model.layers):
                queries = model.queries(layer, h, rotation)
                x = model.after_attention(layer, x, _attend(queries, keys, values, lengths))
                x = self._offsets.add_packed(number, x, first, lengths)
        last = ends - 1
        # Only a prompt's last logits are needed, so only its last token goes through the rest of the layer.
        queries = model.queries(layer, h[last], (rotation[0][last], rotation[1][last]))
        rows = slice(first, first + len(prompts))
        attended = self._attend_all(number, rows, queries)
        ends_x = model.after_attention(layer, x[last], attended)
        return model.logits(self._offsets.add_packed(number, ends_x, first, [1] * len(prompts)))

    def _store(
        self, number: int, first: int, lengths: Sequence[int], keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Write the keys and values of packed prompts into the buffers of layer `number`.

        Args:
            number: The layer's number.
            first: The first row that the prompts belong to.
            lengths: The number of tokens of each prompt.
            keys: The keys of the prompts, one after the other, `(tokens, kv_heads, head_dim)`.
            values: The values, in the same form.
        """
        begin = 0
        for row, length in enumerate(lengths, first):
            own, places = slice(begin, begin + length), slice(self._filled - length, self._filled)
            self._keys[number][row, :, places] = keys[own].transpose(0, 1)
            self._values[number][row, :, places] = values[own].transpose(0, 1)
            begin += length

    def _attend_all(self, number: int, rows: slice, queries: torch.Tensor) -> torch.Tensor:
        """Return the attention of one token of each row to all stored keys, `(rows, heads * head_dim)`.

        The query heads that share a key head take the place of positions in torch's function.
        """
        model, count = self._model, len(queries)
        group = model.heads // model.kv_heads
        attended = F.scaled_dot_product_attention(
            queries.view(count, model.kv_heads, group, model.head_dim),
            self._keys[number][rows, :, : self._filled],
            self._values[number][rows, :, : self._filled],
            self._mask[rows, :, :, : self._filled].expand(-1, 1, group, -1),
        )
        return attended.reshape(count, -1)

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """See `Session.step`."""
        model, here = self._model, self._filled
        rotation = model.rotation(self._positions)
        self._filled += 1
        self._positions = self._positions + 1
        x = model.embedding[tokens]
        for number, layer in enumerate(model.layers):
            h = model.normed(x, layer.before)
            keys, values = model.keys_values(layer, h, rotation)
            self._keys[number][:, :, here] = keys
            self._values[number][:, :, here] = values
            queries = model.queries(layer, h, rotation)
            x = model.after_attention(layer, x, self._attend_all(number, slice(None), queries))
            x = self._offsets.add(number, x)
        return model.logits(x)

    def select(self, rows: torch.Tensor) -> None:
        """See `Session.select`."""
        self._keys = [buffer[rows] for buffer in self._keys]
        self._values = [buffer[rows] for buffer in self._values]
        self._mask, self._positions = self._mask[rows], self._positions[rows]
        self._offsets.select(rows)


def _layer(module: Any) -> Layer:
    """Return the parameters of one `Qwen3DecoderLayer`."""
    attention, mlp = module.self_attn, module.mlp
    return Layer(
        before=module.input_layernorm.weight,
        q=attention.q_proj.weight,
        k=attention.k_proj.weight,
        v=attention.v_proj.weight,
        o=attention.o_proj.weight,
        q_norm=attention.q_norm.weight,
        k_norm=attention.k_norm.weight,
        between=module.post_attention_layernorm.weight,
        gate=mlp.gate_proj.weight,
        up=mlp.up_proj.weight,
        down=mlp.down_proj.weight,
    )


def _rotations(frequencies: torch.Tensor, places: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rotary embedding's tables of cosines and signed sines for `places` positions.

    Returns:
        Two tensors, each `(places, head_dim)`; the sines of the first half are negated.
    """
    angles = torch.arange(places, dtype=torch.float32)[:, None] * frequencies.float()
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def _attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, lengths: Sequence[int]
) -> torch.Tensor:
    """Return the causal attention within each of several packed prompts, `(tokens, heads * head_dim)`.

    `lengths` has the number of tokens of each prompt.
    """
    out = torch.empty_like(queries)
    first = 0
    for length in lengths:
        own = slice(first, first + length)
        q, k, v = (part[own].transpose(0, 1)[None] for part in (queries, keys, values))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        out[own] = attended[0].transpose(0, 1)
        first += length
    return out.flatten(1)
