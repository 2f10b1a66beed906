"""The model families that can be trained on vLLM, with Hugging Face's names of vLLM's parameters.

vLLM fuses several parameters into one tensor, one below the other. Each of them is a range of rows, so its
entry in the manifest begins inside the tensor, and nothing is copied. Invariant: every row of a shared tensor
belongs to a named parameter, except the padding of a vocabulary; a tensor that the table does not describe is
refused. This module knows nothing about torch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from agents.model.describe import DTYPE_BYTES
from agents.model.weights.shared import Entry, Naming
from corpus.errors import IntegrityFault


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """A rule for vLLM's tensors that hold several parameters, one below the other."""

    served: str
    """The part of a tensor's name that shows that this rule applies, such as `.qkv_proj.`."""
    parts: tuple[str, ...]
    """For each parameter in the tensor, from the top: the text that replaces `served` in the name."""
    rows: Callable[[Any], tuple[int, ...]]
    """A function that takes the text model's configuration and returns the rows of each parameter."""
    padded: bool = False
    """Whether the tensor may end with rows that belong to no parameter."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """The layout in which vLLM serves one family's tensors."""

    fusions: tuple[Fusion, ...]
    prefix: str = ""
    """Prefix of the language model's names in vLLM, if it is a part of a multimodal model; else ""."""
    other_prefixes: tuple[str, ...] = ()
    """Prefixes of the names of the multimodal model's other parts, which are neither shared nor trained."""

    def has(self, name: str) -> bool:
        """Return whether the tensor with this name in vLLM belongs to the language model."""
        return not name.startswith(self.other_prefixes)

    def naming(self, config: Any) -> Naming:
        """Return the function that maps served tensors to entries of the manifest.

        Args:
            config: The Hugging Face configuration of the text model.
        """

        def name(served: tuple[Entry, ...]) -> tuple[Entry, ...]:
            return tuple(entry for tensor in served for entry in self._entries(tensor, config))

        return name

    def _entries(self, served: Entry, config: Any) -> Iterator[Entry]:
        """Yield an entry of the manifest for each parameter that lies in one served tensor."""
        if served.dtype not in DTYPE_BYTES:
            raise IntegrityFault(
                f"{served.name} is {served.dtype}: only {', '.join(sorted(DTYPE_BYTES))} can be trained"
            )
        served = replace(served, name=served.name.removeprefix(self.prefix))
        fusion = next((fusion for fusion in self.fusions if fusion.served in served.name), None)
        if fusion is None:
            yield served
            return
        row_bytes, row = prod(served.shape[1:]) * DTYPE_BYTES[served.dtype], 0
        for part, rows in zip(fusion.parts, fusion.rows(config), strict=True):
            yield replace(
                served,
                name=served.name.replace(fusion.served, part),
                offset=served.offset + row * row_bytes,
                shape=(rows, *served.shape[1:]),
            )
            row += rows
        if row > served.shape[0] or (row < served.shape[0] and not fusion.padded):
            raise IntegrityFault(
                f"{served.name} has {served.shape[0]} rows, its parts {row}: this model is not supported"
            )


def _attention(config: Any, queries: int = 1) -> tuple[int, ...]:
    """Return the rows of the projections to queries, keys and values.

    `queries` is the number of row blocks for each query head: 2 if each head has a gate as well.
    """
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = config.num_key_value_heads * head
    return queries * config.num_attention_heads * head, keys, keys


def _vocabulary(config: Any) -> tuple[int, ...]:
    return (config.vocab_size,)


def _delta_rule(config: Any) -> tuple[int, ...]:
    """Return the rows of queries, keys and values together, and the rows of the output's gate."""
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    values = config.linear_num_value_heads * config.linear_value_head_dim
    return 2 * keys + values, values


_COMMON = (
    Fusion(
        served=".gate_up_proj.", parts=(".gate_proj.", ".up_proj."), rows=lambda c: (c.intermediate_size,) * 2
    ),
    Fusion(served="embed_tokens.", parts=("embed_tokens.",), rows=_vocabulary, padded=True),
    Fusion(served="lm_head.", parts=("lm_head.",), rows=_vocabulary, padded=True),
)
_HEADS = (".q_proj.", ".k_proj.", ".v_proj.")
_DENSE = Family(fusions=(Fusion(served=".qkv_proj.", parts=_HEADS, rows=_attention), *_COMMON))
_GATED_DELTA_NET = Family(
    fusions=(
        # Each query head has a gate of the same size.
        Fusion(served=".qkv_proj.", parts=_HEADS, rows=lambda c: _attention(c, queries=2)),
        Fusion(served=".in_proj_qkvz.", parts=(".in_proj_qkv.", ".in_proj_z."), rows=_delta_rule),
        Fusion(
            served=".in_proj_ba.",
            parts=(".in_proj_b.", ".in_proj_a."),
            rows=lambda c: (c.linear_num_value_heads,) * 2,
        ),
        *_COMMON,
    ),
    prefix="language_model.",
    other_prefixes=("visual.",),
)

FAMILIES = {"llama": _DENSE, "qwen2": _DENSE, "qwen3": _DENSE, "qwen3_5_text": _GATED_DELTA_NET}
"""The families that can be trained, by `model_type` in the text model's configuration."""


def family_of(config: Any) -> Family:
    """Return the family of the text model with this configuration; raise `IntegrityFault` if unknown."""
    try:
        return FAMILIES[config.model_type]
    except KeyError:
        raise IntegrityFault(
            f"models of type {config.model_type!r} cannot be trained on vLLM yet, only "
            f"{', '.join(sorted(FAMILIES))}; serve one of these, or take model.url out of the configuration"
        ) from None
