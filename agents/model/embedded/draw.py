"""The next token of each row, drawn from its logits by the row's own settings and random number.

The inverse of the cumulative distribution turns a uniform number into a token, so each row's answer is
repeatable.

Invariant: a row's token depends on its own logits, settings and number alone. This module knows nothing
about models or text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from agents.model.embedded import kernel

LIKELIEST = 512
"""How many of the likeliest tokens are sorted for `top_p` at first; all of them are only if these do not
reach it."""
BLOCK = 64
"""Tokens whose weights are added up together, so that the place of a number is found in two short
searches."""


@dataclass(frozen=True, kw_only=True)
class DrawSettings:
    """How one row's tokens are drawn."""

    temperature: float
    """0 takes the most likely token each time."""
    top_p: float = 1.0
    """Share of the probability that tokens are drawn from, likeliest first: over 0, at most 1."""
    min_p: float = 0.0
    """Share of the likeliest token's probability below which a token is never drawn; 0 for no limit."""


def draw(logits: torch.Tensor, settings: Sequence[DrawSettings], uniforms: Sequence[float]) -> list[int]:
    """Return one drawn token for each row.

    Args:
        logits: `(rows, vocab_size)`.
        settings: The settings of each row.
        uniforms: One random number in [0, 1) for each row.
    """
    greedy = [row for row, one in enumerate(settings) if one.temperature == 0]
    sampled = [row for row, one in enumerate(settings) if one.temperature > 0]
    tokens = [0] * len(settings)
    if greedy:
        best = logits[greedy] if sampled else logits
        for row, token in zip(greedy, best.argmax(-1).tolist(), strict=True):
            tokens[row] = token
    if sampled:
        some = logits[sampled] if greedy else logits
        drawn = _drawn(some, [settings[row] for row in sampled], [uniforms[row] for row in sampled])
        for row, token in zip(sampled, drawn, strict=True):
            tokens[row] = token
    return tokens


def _drawn(
    logits: torch.Tensor, settings: Sequence[DrawSettings], uniforms: Sequence[float]
) -> Sequence[int]:
    """Return the drawn token of each row, all of whose temperatures are over 0."""
    if all(one.top_p == 1 for one in settings):
        temperatures, least = [one.temperature for one in settings], [one.min_p for one in settings]
        if (quick := kernel.draw(logits, temperatures, least, uniforms)) is not None:
            return quick
    numbers = torch.tensor(uniforms, dtype=torch.float64)[:, None]
    drawn: list[int] = _inverse(_weights(logits, settings), numbers).tolist()
    return drawn


def _weights(logits: torch.Tensor, settings: Sequence[DrawSettings]) -> torch.Tensor:
    """Return each token's weight, float64 `(rows, vocab_size)`; that of a token that is never drawn is 0."""
    temperature, top_p, min_p = (
        torch.tensor(column, dtype=torch.float64)[:, None]
        for column in zip(*((one.temperature, one.top_p, one.min_p) for one in settings), strict=True)
    )
    # The largest logit is subtracted first, so that no temperature makes the exponentials overflow.
    weights = (logits - logits.amax(-1, keepdim=True)).double().div_(temperature).exp_()
    if bool((min_p > 0).any()):
        # The likeliest token's weight is exp(0) = 1, so a weight is its share of that token's.
        weights.masked_fill_(weights < min_p, 0.0)
    rows = (top_p[:, 0] < 1).nonzero()[:, 0]
    if len(rows):
        weights[rows] = _nucleus(weights[rows], top_p[rows])
    return weights


def _nucleus(weights: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Return the weights, `(rows, vocab_size)`, with zeros for all but the likeliest tokens of each row.

    These are the fewest tokens whose share of the row's total weight reaches the row's `top_p`, `(rows, 1)`.
    """
    enough = top_p * weights.sum(-1, keepdim=True)
    count = min(LIKELIEST, weights.shape[-1])
    ordered, order = weights.topk(count, dim=-1)
    if bool((ordered.sum(-1, keepdim=True) < enough).any()):
        ordered, order = weights.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    ordered = ordered.masked_fill(before >= enough, 0.0)
    return torch.zeros_like(weights).scatter_(-1, order, ordered)


def _inverse(weights: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Return the token at which the cumulative weight passes the number's share, int64 `(rows,)`.

    Args:
        weights: `(rows, vocab_size)`.
        numbers: In [0, 1), `(rows, 1)`.
    """
    rows, size = weights.shape
    if size % BLOCK:
        weights = torch.nn.functional.pad(weights, (0, BLOCK - size % BLOCK))
    blocks = weights.view(rows, -1, BLOCK)
    upto = blocks.sum(-1).cumsum(-1)
    targets = numbers * upto[:, -1:]
    # Rounding must not find a block without weight behind the last one that has some.
    full = (upto < upto[:, -1:]).sum(-1, keepdim=True)
    block = torch.minimum(torch.searchsorted(upto, targets, right=True), full)
    before = torch.where(block > 0, upto.gather(-1, (block - 1).clamp(min=0)), 0.0)
    inside = blocks[torch.arange(rows), block[:, 0]].cumsum(-1)
    place = torch.searchsorted(inside, targets - before, right=True)
    last = (inside < inside[:, -1:]).sum(-1, keepdim=True)
    return (block * BLOCK + torch.minimum(place, last))[:, 0]
