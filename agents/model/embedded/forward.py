"""The forward pass of a causal language model for generation: first whole prompts, then one token per row.

There are two implementations: `agents.model.embedded.qwen3` for the architecture of the embedded model, and
`TransformersForward` here, which calls the Hugging Face module itself and so takes any dense causal model.

Invariant: every pass reads the parameters where they lie, and never copies or repacks them, so a write to the
shared weights changes the very next token. This module knows nothing about sampling, text or requests.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from agents.model.embedded.activation_steering import BatchOffsets, Offsets
from agents.model.embedded.qwen3 import Qwen3Forward


class Session(Protocol):
    """A batch whose answers are being generated: its cache, and the length of each row."""

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append one token to each row, and return the logits of each row's next token.

        Args:
            tokens: The appended tokens, int64 `(rows,)`.

        Returns:
            `(rows, vocab_size)`.
        """
        ...

    def select(self, rows: torch.Tensor) -> None:
        """Drop all rows but those with these numbers, int64 `(kept,)` in ascending order."""
        ...


class Forward(Protocol):
    """A model that can start a session."""

    def begin(
        self, prompts: Sequence[Sequence[int]], max_tokens: int, offsets: Sequence[Offsets] = ()
    ) -> tuple[Session, torch.Tensor]:
        """Read the prompts; return their session and the logits of each first token, `(rows, vocab_size)`.

        Args:
            prompts: The tokens of each row.
            max_tokens: Most tokens that each row will get.
            offsets: The steering of each row (see `Offsets`); empty when no row is steered.
        """
        ...


def forward_for(model: Any) -> Forward:
    """Return the fastest implementation that can compute this Hugging Face model."""
    return Qwen3Forward(model) if Qwen3Forward.fits(model) else TransformersForward(model)


class TransformersForward:
    """The Hugging Face module's own forward pass, with left-padded prompts and its dynamic cache."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def begin(
        self, prompts: Sequence[Sequence[int]], max_tokens: int, offsets: Sequence[Offsets] = ()
    ) -> tuple["TransformersSession", torch.Tensor]:
        """See `Forward.begin`."""
        width = max(len(prompt) for prompt in prompts)
        ids = torch.zeros(len(prompts), width, dtype=torch.int64)
        mask = torch.zeros(len(prompts), width, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        session = TransformersSession(self._model, mask, BatchOffsets(offsets))
        return session, session.read(ids)


class TransformersSession:
    """See `Session`."""

    def __init__(self, model: Any, mask: torch.Tensor, offsets: BatchOffsets) -> None:
        self._model, self._mask, self._offsets = model, mask, offsets
        self._cache: Any = None

    def read(self, ids: torch.Tensor) -> torch.Tensor:
        """Append ids `(rows, width)`, and return the logits after the last of them, `(rows, vocab_size)`."""
        positions = (self._mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        with self._steering():
            out = self._model(
                input_ids=ids,
                attention_mask=self._mask,
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        self._cache = out.past_key_values
        logits: torch.Tensor = out.logits[:, -1]
        return logits

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """See `Session.step`."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        return self.read(tokens[:, None])

    def select(self, rows: torch.Tensor) -> None:
        """See `Session.select`."""
        self._mask = self._mask[rows]
        self._cache.batch_select_indices(rows)
        self._offsets.select(rows)

    @contextmanager
    def _steering(self) -> Iterator[None]:
        """Hook this batch's offsets into the model for the block; passes of other threads do not change."""
        own_thread, layers = threading.get_ident(), self._model.base_model.layers if self._offsets else ()

        def hook(layer: int) -> Any:
            def add(module: Any, inputs: Any, output: Any) -> Any:
                if threading.get_ident() != own_thread:
                    return None
                offset = self._offsets.rows(layer)[:, None]
                if isinstance(output, tuple):
                    return output[0] + offset.to(output[0].dtype), *output[1:]
                return output + offset.to(output.dtype)

            return add

        handles = [layers[layer].register_forward_hook(hook(layer)) for layer in self._offsets.layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
