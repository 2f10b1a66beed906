"""The context-frozen pass: log-probabilities of continuations, gradients through them alone.

Each context goes through the model once, without gradients, into a cache; all its continuations start from
that cache. The last context token is held back and fed with the continuation: its logits predict the first
continuation token, which would otherwise have no gradient.

Rows are padded on the right, and a row's pads are masked out: no query ever sees nothing but pads, and
positions are counted without them.

Invariant: a row's result depends on its own tokens alone, up to rounding. The past's keys and values are
constants. Knows attention over the whole context only: a sliding window or a recurrent state would count the
pads, so `check` refuses such models.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from transformers import DynamicCache

from agents.trainer.losses import Scores
from corpus.errors import TrainerFault

Tokens = Sequence[int]


def check(model: Any) -> None:
    """Refuse a model whose layers this pass would get wrong."""
    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(model.config, "sliding_window", None):
        raise TrainerFault(
            f"this model has {', '.join(sorted(kinds))} layers; only full attention can be trained so far"
        )


def scores(
    model: Any, contexts: Sequence[Tokens], continuations: Sequence[Sequence[Tokens]], *, train: bool
) -> list[Scores]:
    """Score k continuations of each of n contexts: k lists of n, one `Scores` (n,) for each list.

    Every context and every continuation has at least one token. `train` keeps the graph for gradients.
    """
    if any(not row for row in contexts) or any(not row for rows in continuations for row in rows):
        raise TrainerFault("a context and a continuation have at least one token each; leave such examples out")
    device = _device(model, [*contexts, *(row for rows in continuations for row in rows)])
    n, k = len(contexts), len(continuations)
    cache, seen = _read_contexts(model, [row[:-1] for row in contexts], k, device)
    rows = [row for group in continuations for row in group]
    # Fed: the held-back token and all but the last token of the continuation; predicted: the continuation.
    fed, mask = _pad([[*contexts[i % n][-1:], *row[:-1]] for i, row in enumerate(rows)], device)
    wanted, _ = _pad(rows, device)
    starts = torch.tensor([len(contexts[i % n]) - 1 for i in range(n * k)], device=device)
    with nullcontext() if train else torch.no_grad():
        logits = model(
            input_ids=fed,
            attention_mask=torch.cat([seen, mask], dim=1),
            position_ids=starts[:, None] + torch.arange(fed.shape[1], device=device),
            past_key_values=cache,
            use_cache=True,
        ).logits
        each = torch.log_softmax(logits.to(torch.float32), dim=-1).gather(-1, wanted[..., None])[..., 0]
        totals = (each * mask).sum(dim=1)
    counts = mask.sum(dim=1)
    return [Scores(total=totals[i * n : (i + 1) * n], tokens=counts[i * n : (i + 1) * n]) for i in range(k)]


@torch.no_grad()
def _read_contexts(
    model: Any, contexts: Sequence[Tokens], copies: int, device: torch.device
) -> tuple[DynamicCache, torch.Tensor]:
    """The cache of these contexts, all rows `copies` times over, and its mask (n * copies, longest)."""
    n = len(contexts)
    cache = DynamicCache()
    if not any(contexts):  # nothing before the held-back tokens
        return cache, torch.zeros(n * copies, 0, dtype=torch.long, device=device)
    tokens, mask = _pad(contexts, device)
    positions = torch.arange(tokens.shape[1], device=device)[None, :].expand_as(tokens)
    # A row of pads alone would be a softmax over nothing; its keys and values are masked out later anyway.
    visible = mask.clone()
    visible[:, 0] = 1
    model.base_model(
        input_ids=tokens,
        attention_mask=visible,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    )
    order = torch.arange(n, device=device).repeat(copies)
    cache.batch_select_indices(order)
    return cache, mask[order]


def _device(model: Any, rows: Sequence[Tokens]) -> torch.device:
    """Where the model's inputs go; refuses tokens that it does not have, which a GPU would die of."""
    table = model.get_input_embeddings().weight
    if any(not 0 <= token < table.shape[0] for row in rows for token in row):
        raise TrainerFault(f"a token id is not in 0 to {table.shape[0] - 1}; this is another model's tokenizer")
    device: torch.device = table.device
    return device


def _pad(rows: Sequence[Tokens], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows as (n, longest) int64 with zeros on the right, and the mask of what is not padding, int64."""
    longest = max(len(row) for row in rows)
    tokens = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row)] = 1
    return tokens.to(device), mask.to(device)


@torch.no_grad()
def residuals(model: Any, texts: Sequence[Tokens], layers: Sequence[int]) -> torch.Tensor:
    """The residual stream after these layers (from 0) at each text's last token.

    Returns (texts, layers, hidden) float32 on the CPU; not normalised, also after the last layer.
    """
    decoder = model.base_model
    if any(not text for text in texts) or any(not 0 <= layer < len(decoder.layers) for layer in layers):
        raise TrainerFault(f"texts need a token each, and layers are 0 to {len(decoder.layers) - 1}")
    device = _device(model, texts)
    tokens, mask = _pad(texts, device)
    rows, last = torch.arange(len(texts), device=device), mask.sum(dim=1) - 1
    caught: dict[int, torch.Tensor] = {}

    def catch(layer: int) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            stream = output[0] if isinstance(output, tuple) else output
            caught[layer] = stream[rows, last].to(torch.float32)

        return hook

    hooks = [decoder.layers[layer].register_forward_hook(catch(layer)) for layer in set(layers)]
    try:
        decoder(input_ids=tokens, attention_mask=mask, use_cache=False)
    finally:
        for handle in hooks:
            handle.remove()
    return torch.stack([caught[layer] for layer in layers], dim=1).cpu()
