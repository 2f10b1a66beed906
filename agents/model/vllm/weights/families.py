"""Names of vLLM's parameters in Hugging Face's model: a table with one entry for each family.

vLLM fuses several projections into one tensor, one below the other. Each is a run of rows, so its entry in
the manifest begins inside the tensor and nothing is copied. Invariant: every row of every shared tensor has a
name, but for the padding of a vocabulary; a tensor that the table does not describe is refused. This module
knows nothing about torch.
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
    """A served tensor that holds several parameters, one below the other."""

    served: str
    """The part of vLLM's name that identifies it."""
    parts: tuple[str, ...]
    """The replacement of that part in each parameter's name, from the top."""
    rows: Callable[[Any], tuple[int, ...]]
    """(configuration) -> rows of each part."""
    padded: bool = False
    """Whether rows may follow that belong to no parameter."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """The layout in which vLLM serves one family's tensors."""

    fusions: tuple[Fusion, ...]
    prefix: str = ""
    """Prefix of the names of a language model that is a part of a multimodal one."""
    other_prefixes: tuple[str, ...] = ()
    """Prefixes of the multimodal model's other parts: they stay where they are and are not trained."""

    def has(self, name: str) -> bool:
        """Return whether the tensor with this name of vLLM's belongs to the language model."""
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
        """Yield the parameters that lie in one served tensor."""
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
    """Return the rows of queries, keys and values."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = config.num_key_value_heads * head
    return queries * config.num_attention_heads * head, keys, keys


def _vocabulary(config: Any) -> tuple[int, ...]:
    return (config.vocab_size,)


def _delta_rule(config: Any) -> tuple[int, ...]:
    """Return the rows of queries, keys and values together, and of the output's gate."""
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
        # each head has a gate
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
"""The families that can be trained, by the `model_type` of the text model's configuration."""


def family_of(config: Any) -> Family:
    """Return the family of a text model by its configuration; an unknown one raises `IntegrityFault`."""
    try:
        return FAMILIES[config.model_type]
    except KeyError:
        raise IntegrityFault(
            f"models of type {config.model_type!r} cannot be trained on vLLM yet, only "
            f"{', '.join(sorted(FAMILIES))}; serve one of these, or take model.url out of the configuration"
        ) from None
