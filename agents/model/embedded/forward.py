"""The forward pass of a causal language model for generation: rows are opened, read in parts, and closed.

There are two implementations: `agents.model.embedded.decoder` for the common families, and
`TransformersForward` here, which calls the Hugging Face module itself, one row after the other, and so
takes any causal model.

Invariant: a row's logits do not depend on the other rows, and every pass reads the current weights. This
module knows nothing about sampling, text or requests.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

import torch
import transformers

from agents.model.embedded.activation_steering import Offsets
from agents.model.embedded.decoder import DecoderForward
from agents.model.embedded.passes import Part
from agents.model.embedded.working_weights import WorkingWeights


class Forward(Protocol):
    """A model that reads rows."""

    def open(self, tokens: int, offsets: Offsets | None = None, *, spare: bool = False) -> int | None:
        """Return the number of a new row; None if there is no space for it now.

        Args:
            tokens: The most tokens that the row will have, its prompt included.
            offsets: The steering of the row (see `Offsets`); None for none.
            spare: Whether space for one row of any length must stay free.
        """
        ...

    def close(self, row: int) -> None:
        """Forget the row."""
        ...

    def read(self, parts: Sequence[Part]) -> torch.Tensor:
        """Append tokens to rows, and return the wanted logits.

        Args:
            parts: The tokens; at most one part of a row.

        Returns:
            float32 `(wanted parts, vocab_size)`, in the order of the parts.
        """
        ...


def forward_for(model: Any, weights: WorkingWeights | None = None) -> Forward:
    """Return the fastest implementation that can compute this Hugging Face model.

    `weights` are the tensors that `DecoderForward` computes with; by default the model's own.
    """
    return DecoderForward(model, weights) if DecoderForward.fits(model) else TransformersForward(model)


@dataclass(kw_only=True)
class _Row:
    """A row of `TransformersForward`."""

    cache: Any
    offsets: Offsets


class TransformersForward:
    """The Hugging Face module's own forward pass, with its own cache for each row."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._rows: dict[int, _Row] = {}
        self._numbers = count()

    def open(self, tokens: int, offsets: Offsets | None = None, *, spare: bool = False) -> int | None:
        """See `Forward.open`."""
        row = next(self._numbers)
        cache = transformers.DynamicCache(config=self._model.config)
        self._rows[row] = _Row(cache=cache, offsets=offsets or {})
        return row

    def close(self, row: int) -> None:
        """See `Forward.close`."""
        del self._rows[row]

    def read(self, parts: Sequence[Part]) -> torch.Tensor:
        """See `Forward.read`."""
        logits = [self._logits(part) for part in parts]
        wanted = [own for own, part in zip(logits, parts, strict=True) if part.wanted]
        return (
            torch.cat(wanted) if wanted else torch.empty(0, self._model.config.get_text_config().vocab_size)
        )

    def _logits(self, part: Part) -> torch.Tensor:
        """Read one part, and return the logits after its last token, `(1, vocab_size)`."""
        row = self._rows[part.row]
        with self._steering(row.offsets):
            out = self._model(
                input_ids=torch.tensor([list(part.tokens)]),
                past_key_values=row.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: torch.Tensor = out.logits[:, -1].float()
        return logits

    @contextmanager
    def _steering(self, offsets: Offsets) -> Iterator[None]:
        """Hook the offsets into the model for the block; passes of other threads do not change."""
        own_thread, layers = threading.get_ident(), self._model.base_model.layers if offsets else ()

        def hook(offset: torch.Tensor) -> Any:
            def add(module: Any, inputs: Any, output: Any) -> Any:
                if threading.get_ident() != own_thread:
                    return None
                if isinstance(output, tuple):
                    return output[0] + offset.to(output[0].dtype), *output[1:]
                return output + offset.to(output.dtype)

            return add

        handles = [layers[layer].register_forward_hook(hook(offset)) for layer, offset in offsets.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
