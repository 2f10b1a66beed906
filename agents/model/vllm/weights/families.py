"""How vLLM's parameters are called and cut by Hugging Face: a table, one entry a family.

vLLM keeps several projections in one tensor, one below the other. Each is a run of rows there, so it is an entry
of the manifest that begins inside the tensor: nothing is copied. Invariant: every row of every shared tensor is
named, but for the padding of a vocabulary; what the table does not tell is refused. Knows no torch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from agents.model.describe import DTYPE_BYTES
from agents.model.weights.shared import Entry, Naming
from corpus.errors import IntegrityFault


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A served tensor that is several parameters, one below the other."""

    served: str
    """Part of vLLM's name."""
    parts: tuple[str, ...]
    """What stands in its place in the parameters' names, from the top."""
    rows: Callable[[Any], tuple[int, ...]]
    """(configuration) -> rows of each part."""
    padded: bool = False
    """Whether rows may follow that are nobody's."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """How one family's tensors are served."""

    cuts: tuple[Cut, ...]
    inside: str = ""
    """What stands before the names when the language model is a part of one that also sees."""
    apart: tuple[str, ...] = ()
    """How the names of that one's other parts begin: they stay where they are and are not trained."""

    def has(self, name: str) -> bool:
        """Whether the tensor of this name, vLLM's, is the language model's."""
        return not name.startswith(self.apart)

    def naming(self, config: Any) -> Naming:
        """What the manifest is to say of the tensors that vLLM serves.

        config: the Hugging Face configuration of the text model.
        """

        def name(served: tuple[Entry, ...]) -> tuple[Entry, ...]:
            return tuple(entry for one in served for entry in self._named(one, config))

        return name

    def _named(self, served: Entry, config: Any) -> Iterator[Entry]:
        """The parameters that lie in one served tensor."""
        if served.dtype not in DTYPE_BYTES:
            raise IntegrityFault(
                f"{served.name} is {served.dtype}: only {', '.join(sorted(DTYPE_BYTES))} can be trained"
            )
        served = replace(served, name=served.name.removeprefix(self.inside))
        cut = next((cut for cut in self.cuts if cut.served in served.name), None)
        if cut is None:
            yield served
            return
        row_bytes, row = prod(served.shape[1:]) * DTYPE_BYTES[served.dtype], 0
        for part, rows in zip(cut.parts, cut.rows(config), strict=True):
            yield replace(
                served,
                name=served.name.replace(cut.served, part),
                offset=served.offset + row * row_bytes,
                shape=(rows, *served.shape[1:]),
            )
            row += rows
        if row > served.shape[0] or (row < served.shape[0] and not cut.padded):
            raise IntegrityFault(
                f"{served.name} has {served.shape[0]} rows, its parts {row}: this model is not supported"
            )


def _attention(config: Any, queries: int = 1) -> tuple[int, ...]:
    """Rows of queries, keys, values."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = config.num_key_value_heads * head
    return queries * config.num_attention_heads * head, keys, keys


def _vocabulary(config: Any) -> tuple[int, ...]:
    return (config.vocab_size,)


def _delta_rule(config: Any) -> tuple[int, ...]:
    """Rows of queries, keys and values together, and of the output's gate."""
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    values = config.linear_num_value_heads * config.linear_value_head_dim
    return 2 * keys + values, values


_EVERY = (
    Cut(
        served=".gate_up_proj.", parts=(".gate_proj.", ".up_proj."), rows=lambda c: (c.intermediate_size,) * 2
    ),
    Cut(served="embed_tokens.", parts=("embed_tokens.",), rows=_vocabulary, padded=True),
    Cut(served="lm_head.", parts=("lm_head.",), rows=_vocabulary, padded=True),
)
_HEADS = (".q_proj.", ".k_proj.", ".v_proj.")
_DENSE = Family(cuts=(Cut(served=".qkv_proj.", parts=_HEADS, rows=_attention), *_EVERY))
_GATED_DELTA_NET = Family(
    cuts=(
        Cut(
            served=".qkv_proj.", parts=_HEADS, rows=lambda c: _attention(c, queries=2)
        ),  # each head has a gate
        Cut(served=".in_proj_qkvz.", parts=(".in_proj_qkv.", ".in_proj_z."), rows=_delta_rule),
        Cut(
            served=".in_proj_ba.",
            parts=(".in_proj_b.", ".in_proj_a."),
            rows=lambda c: (c.linear_num_value_heads,) * 2,
        ),
        *_EVERY,
    ),
    inside="language_model.",
    apart=("visual.",),
)

FAMILIES = {"llama": _DENSE, "qwen2": _DENSE, "qwen3": _DENSE, "qwen3_5_text": _GATED_DELTA_NET}
"""The families that can be trained, by the `model_type` of the text model's configuration."""


def family_of(config: Any) -> Family:
    """The entry of this model, by the configuration of its text model; `IntegrityFault` where there is none."""
    try:
        return FAMILIES[config.model_type]
    except KeyError:
        raise IntegrityFault(
            f"models of type {config.model_type!r} cannot be trained on vLLM yet, only {', '.join(sorted(FAMILIES))}; "
            "serve one of these, or take model.url out of the configuration"
        ) from None
