"""The forward pass of Llama, Mistral, Qwen 2 and 3 and Gemma 3, for continuous batching on a CPU.

One pass takes any tokens of any rows: whole prompts, parts of prompts and single tokens of answers lie one
after the other, so nothing is padded, and a weight is read once for all of them. Keys and values go into a
paged cache. In the last layer only those tokens are computed whose logits somebody wants.

Invariant: it computes the same as the Hugging Face model (a test for each family compares the two), and a
row's logits do not depend on the other rows of a pass. The weights are those of `WorkingWeights`. This
module knows nothing about sampling, text or requests.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from agents.model.embedded.activation_steering import Offsets
from agents.model.embedded.kernel import LANES, Attention, Linear, Norm, gathered, rotate, silu_gate
from agents.model.embedded.kv_cache import PagedCache
from agents.model.embedded.passes import Part
from agents.model.embedded.working_weights import WorkingWeights

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma3_text"})
"""Values of `model_type` in the configuration of the models that this module computes."""
GATES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "silu": silu_gate,
    "gelu_pytorch_tanh": lambda gate, up: F.gelu(gate, approximate="tanh").mul_(up),
}
"""What the feed-forward layer makes of its two inner products, by the name of its activation function."""
ROPES = frozenset({"default", "linear", "llama3"})
"""Kinds of rotary embedding whose frequencies are the same for texts of any length."""
LONG = 64
"""Tokens of a prompt from which torch's attention, which works on blocks of queries, is quicker than ours."""

Rotation = tuple[torch.Tensor, torch.Tensor]
"""Cosines and signed sines of all positions, each `(positions, head_dim)`."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One decoder layer."""

    before: Norm
    qkv: Linear
    q_norm: Norm | None
    k_norm: Norm | None
    o: Linear
    after_attention: Norm | None
    """Applied to the attention's output before it is added to the stream."""
    between: Norm
    gate_up: Linear
    down: Linear
    after_mlp: Norm | None
    window: int
    """How many tokens a token sees, itself included; 0 for all."""
    kind: str
    """Which rotary embedding it uses: the name of its kind of layer."""


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """What every layer of one pass needs to know about its tokens."""

    parts: Sequence[Part]
    firsts: Sequence[int]
    """The number of the first token of each part."""
    positions: torch.Tensor
    """The place of each token in its row, int32 `(tokens,)`."""
    everything: Attention
    short: Attention | None
    """Attention for the tokens `short_tokens`; None if those are all tokens."""
    short_tokens: torch.Tensor
    """The numbers of the tokens that are in no long part, int64."""
    ends: torch.Tensor
    """The numbers of the tokens whose logits are wanted, int64."""
    at_ends: Attention
    """Attention for the tokens `ends`."""


class DecoderForward:
    """See `agents.model.embedded.forward.Forward`."""

    @staticmethod
    def fits(model: Any) -> bool:
        """Return whether this module computes the same as the Hugging Face model `model`."""
        config = model.config
        ropes = getattr(config, "rope_parameters", None) or {}
        kinds = [ropes] if "rope_type" in ropes else list(ropes.values())
        act = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
        return (
            config.model_type in FAMILIES
            and act in GATES
            and bool(kinds)
            and all(rope["rope_type"] in ROPES for rope in kinds)
            and not getattr(config, "mlp_bias", False)
            and not getattr(config, "attn_logit_softcapping", None)
            and not getattr(config, "final_logit_softcapping", None)
            and not getattr(config, "use_bidirectional_attention", False)
            and all(parameter.dtype in (torch.float32, torch.bfloat16) for parameter in model.parameters())
            and len({parameter.dtype for parameter in model.parameters() if parameter.dim() > 1}) == 1
        )

    def __init__(self, model: Any, weights: WorkingWeights | None = None) -> None:
        weights, config, decoder = weights or WorkingWeights(), model.config, model.model
        first = decoder.layers[0].self_attn
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.head_dim: int = first.head_dim
        self.scale = float(first.scaling)
        act = getattr(config, "hidden_activation", None) or config.hidden_act
        self.gate = GATES[act]
        plus_one = config.model_type == "gemma3_text"

        def norm(module: Any) -> Norm:
            return Norm(weights.of(module.weight), config.rms_norm_eps, plus_one=plus_one)

        self.layers = [_layer(layer, weights, norm) for layer in decoder.layers]
        self.embedding = weights.of(decoder.embed_tokens.weight)
        self.embedding_scale = float(getattr(decoder.embed_tokens, "scalar_embed_scale", 1.0))
        self.head = Linear([weights.of(model.lm_head.weight)])
        self.norm = norm(decoder.norm)
        places = config.max_position_embeddings
        self._rotations = {
            kind: _rotations(*_frequencies(decoder.rotary_emb, kind), places)
            for kind in {layer.kind for layer in self.layers}
        }
        self._cache = PagedCache(
            layers=len(self.layers),
            kv_heads=self.kv_heads,
            dim=self.head_dim,
            context=places,
            dtype=self.embedding.dtype,
        )
        self._offsets: dict[int, Offsets] = {}

    def open(self, tokens: int, offsets: Offsets | None = None, *, spare: bool = False) -> int | None:
        """See `Forward.open`."""
        row = self._cache.take(tokens, spare=spare)
        if row is not None and offsets:
            self._offsets[row] = offsets
        return row

    def close(self, row: int) -> None:
        """See `Forward.close`."""
        self._cache.give_back(row)
        self._offsets.pop(row, None)

    def read(self, parts: Sequence[Part]) -> torch.Tensor:
        """See `Forward.read`."""
        now = self._prepared(parts)
        x = self.embedding[torch.tensor([token for part in parts for token in part.tokens])].float()
        if self.embedding_scale != 1:
            x = x * self.embedding_scale
        last, added = len(self.layers) - 1, None
        for number, layer in enumerate(self.layers[:-1]):
            q, k, v = self._queries_keys_values(layer, layer.before(x, added), now.positions)
            attended = self._attended(number, now, q, k, v)
            added = self._after_attention(layer, x, attended)
            self._steer(number, now, added)
        # Only the wanted tokens go through the rest of the last layer; the others leave their keys and
        # values.
        layer, cache = self.layers[-1], (self._cache.keys[last], self._cache.values[last])
        q, k, v = self._queries_keys_values(layer, layer.before(x, added), now.positions)
        now.everything.store(*cache, k, v)
        if not len(now.ends):
            return torch.empty(0, len(self.embedding))
        x = x[now.ends]
        added = self._after_attention(layer, x, now.at_ends(q[now.ends], *cache, layer.window))
        for place, part in enumerate(part for part in parts if part.wanted):
            if last in (offsets := self._offsets.get(part.row, {})):
                added[place] += offsets[last]
        return self.head(self.norm(x, added))[0]

    def _prepared(self, parts: Sequence[Part]) -> _Pass:
        """Return what the layers need to know about the tokens of these parts."""
        firsts, rows, places, ends, short = [], list[int](), list[int](), [], list[int]()
        for part in parts:
            first, count = len(rows), len(part.tokens)
            firsts.append(first)
            rows += [part.row] * count
            places += range(part.start, part.start + count)
            if part.wanted:
                ends.append(first + count - 1)
            if count < LONG:
                short += range(first, first + count)
        row, place = torch.tensor(rows, dtype=torch.int32), torch.tensor(places, dtype=torch.int32)
        end, some = torch.tensor(ends, dtype=torch.int64), torch.tensor(short, dtype=torch.int64)
        return _Pass(
            parts=parts,
            firsts=firsts,
            positions=place,
            everything=self._attention(row, place),
            short=None if len(short) == len(rows) else self._attention(row[some], place[some]),
            short_tokens=some,
            ends=end,
            at_ends=self._attention(row[end], place[end]),
        )

    def _attention(self, rows: torch.Tensor, places: torch.Tensor) -> Attention:
        return Attention(self._cache.pages, rows, places, heads=self.heads, scale=self.scale)

    def _queries_keys_values(
        self, layer: Layer, h: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries `(tokens, heads, dim)`, keys and values `(tokens, kv_heads, dim)`."""
        q, k, v = (part.view(len(h), -1, self.head_dim) for part in layer.qkv(h))
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = layer.q_norm(q), layer.k_norm(k)
        rotation = self._rotations[layer.kind]
        return rotate(q, *rotation, positions), rotate(k, *rotation, positions), v

    def _attended(
        self, number: int, now: _Pass, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        """Store keys and values in the cache of layer `number`, and return the attention, as `q`."""
        cache, window = (self._cache.keys[number], self._cache.values[number]), self.layers[number].window
        now.everything.store(*cache, k, v)
        if now.short is None:
            return now.everything(q, *cache, window)
        out = torch.empty_like(q)
        if len(now.short_tokens):
            out[now.short_tokens] = now.short(q[now.short_tokens], *cache, window)
        for first, part in zip(now.firsts, now.parts, strict=True):
            if len(part.tokens) >= LONG:
                own = slice(first, first + len(part.tokens))
                out[own] = self._attended_long(number, part, q[own], k[own], v[own])
        return out

    def _attended_long(
        self, number: int, part: Part, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        """Return the attention of one long part, as `q`; its keys and values are in the cache already."""
        window, end = self.layers[number].window, part.start + len(part.tokens)
        kind = self._cache.keys[number].dtype
        heads = (q.transpose(0, 1)[None].to(kind), k.transpose(0, 1)[None], v.transpose(0, 1)[None])
        if part.start == 0 and not 0 < window < end:
            seen = None
        else:
            pages = self._cache.pages[part.row : part.row + 1, : -(-end // LANES)]
            k, v = gathered(self._cache.keys[number], self._cache.values[number], pages)
            heads = (heads[0], k[:, :, :end], v[:, :, :end])
            places, own = torch.arange(end), torch.arange(part.start, end)[:, None]
            seen = places <= own
            if window:
                seen &= places > own - window
        attended = F.scaled_dot_product_attention(
            heads[0],
            heads[1].to(kind),
            heads[2].to(kind),
            seen,
            is_causal=seen is None,
            enable_gqa=True,
            scale=self.scale,
        )
        return attended[0].transpose(0, 1).float()

    def _after_attention(self, layer: Layer, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Add the attention's output to the stream `x`, `(tokens, hidden)`, in place.

        Returns:
            The output of the feed-forward layer, which the caller adds to the stream.
        """
        delta = layer.o(attended.flatten(1))[0]
        h = layer.between(x, delta if layer.after_attention is None else layer.after_attention(delta))
        delta = layer.down(self.gate(*layer.gate_up(h)))[0]
        return delta if layer.after_mlp is None else layer.after_mlp(delta)

    def _steer(self, number: int, now: _Pass, added: torch.Tensor) -> None:
        """Add the steered rows' offsets after layer `number` to what is added to their tokens, in place."""
        if not self._offsets:
            return
        for first, part in zip(now.firsts, now.parts, strict=True):
            if number in (offsets := self._offsets.get(part.row, {})):
                added[first : first + len(part.tokens)] += offsets[number]


def _layer(module: Any, weights: WorkingWeights, norm: Callable[[Any], Norm]) -> Layer:
    """Return the parts of one Hugging Face decoder layer."""
    attention, mlp = module.self_attn, module.mlp
    four_norms = hasattr(module, "pre_feedforward_layernorm")

    def linear(*parts: Any) -> Linear:
        biases = [None if part.bias is None else weights.of(part.bias) for part in parts]
        return Linear([weights.of(part.weight) for part in parts], biases)

    return Layer(
        before=norm(module.input_layernorm),
        qkv=linear(attention.q_proj, attention.k_proj, attention.v_proj),
        q_norm=norm(attention.q_norm) if hasattr(attention, "q_norm") else None,
        k_norm=norm(attention.k_norm) if hasattr(attention, "k_norm") else None,
        o=linear(attention.o_proj),
        after_attention=norm(module.post_attention_layernorm) if four_norms else None,
        between=norm(module.pre_feedforward_layernorm if four_norms else module.post_attention_layernorm),
        gate_up=linear(mlp.gate_proj, mlp.up_proj),
        down=linear(mlp.down_proj),
        after_mlp=norm(module.post_feedforward_layernorm) if four_norms else None,
        window=getattr(attention, "sliding_window", None) or _window(attention),
        kind=getattr(attention, "layer_type", None) or "full_attention",
    )


def _window(attention: Any) -> int:
    """Return the window of a family whose attention takes it from the configuration (Mistral); 0 for none."""
    config = attention.config
    return (config.sliding_window or 0) if config.model_type == "mistral" else 0


def _frequencies(rotary: Any, kind: str) -> tuple[torch.Tensor, float]:
    """Return the rotary frequencies `(head_dim / 2,)`, and the factor of sines and cosines."""
    if hasattr(rotary, f"{kind}_inv_freq"):
        return getattr(rotary, f"{kind}_inv_freq"), float(getattr(rotary, f"{kind}_attention_scaling"))
    return rotary.inv_freq, float(rotary.attention_scaling)


def _rotations(frequencies: torch.Tensor, factor: float, places: int) -> Rotation:
    """Return the rotary embedding's tables of cosines and signed sines for `places` positions.

    Returns:
        Two tensors, each `(places, head_dim)`; the sines of the first half are negated.
    """
    angles = torch.arange(places, dtype=torch.float32)[:, None] * frequencies.float()
    cos, sin = angles.cos() * factor, angles.sin() * factor
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
