"""How vLLM's parameters are called and cut by Hugging Face: a table, one entry a family.

vLLM keeps several projections in one tensor, one below the other. Each is a run of rows there, so it is an entry
of the manifest that begins inside the tensor: nothing is copied. Invariant: every row of every served tensor is
named, but for the padding of a vocabulary; what the table does not tell is refused. Knows no torch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from agents.model.mapping import Entry, Naming
from corpus.errors import IntegrityFault

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Of one value of a parameter that can be trained."""


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


def _attention(config: Any) -> tuple[int, ...]:
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = config.num_key_value_heads * head
    return config.num_attention_heads * head, keys, keys


def _vocabulary(config: Any) -> tuple[int, ...]:
    return (config.vocab_size,)


_DENSE = (
    Cut(served=".qkv_proj.", parts=(".q_proj.", ".k_proj.", ".v_proj."), rows=_attention),
    Cut(served=".gate_up_proj.", parts=(".gate_proj.", ".up_proj."), rows=lambda c: (c.intermediate_size,) * 2),
    Cut(served="embed_tokens.", parts=("embed_tokens.",), rows=_vocabulary, padded=True),
    Cut(served="lm_head.", parts=("lm_head.",), rows=_vocabulary, padded=True),
)

FAMILIES: dict[str, tuple[Cut, ...]] = {
    "qwen3": _DENSE,
    "llama": _DENSE,
}
"""The cuts of each family that can be trained, by `model_type`."""


def naming(config: Any) -> Naming:
    """What the manifest is to say of the tensors that vLLM serves.

    config: the Hugging Face configuration of the text model. Raises `IntegrityFault` for a family that the table
    does not have.
    """
    cuts = FAMILIES.get(config.model_type)
    if cuts is None:
        raise IntegrityFault(
            f"models of type {config.model_type!r} cannot be trained on vLLM yet, only {', '.join(sorted(FAMILIES))}; "
            "serve one of these, or take model.url out of the configuration"
        )

    def name(served: tuple[Entry, ...]) -> tuple[Entry, ...]:
        return tuple(entry for one in served for entry in _named(one, cuts, config))

    return name


def _named(served: Entry, cuts: tuple[Cut, ...], config: Any) -> Iterator[Entry]:
    """The parameters that lie in one served tensor."""
    cut = next((cut for cut in cuts if cut.served in served.name), None)
    if cut is None:
        yield served
        return
    row_bytes, row = prod(served.shape[1:]) * BYTES[served.dtype], 0
    for part, rows in zip(cut.parts, cut.rows(config), strict=True):
        yield replace(
            served,
            name=served.name.replace(cut.served, part),
            offset=served.offset + row * row_bytes,
            shape=(rows, *served.shape[1:]),
        )
        row += rows
    if row > served.shape[0] or (row < served.shape[0] and not cut.padded):
        raise IntegrityFault(f"{served.name} has {served.shape[0]} rows, its parts {row}: this model is not supported")
