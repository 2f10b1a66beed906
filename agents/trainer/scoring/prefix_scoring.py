"""Computes log-probabilities of continuations, with gradients through the continuations alone.

Each context goes through the model once, without gradients, into a cache of keys, values and recurrent
states. All continuations of the context start from this cache, in one pass. A context that is the beginning
of another context uses the other's cache. The last context token is left out of the cache and goes through
the model with the continuation: its logits predict the first continuation token, which would otherwise have
no gradient.

Invariant: a row's result depends on its own tokens alone, up to rounding. The cache is a constant, unless
`context_gradient` asks for the exact gradient: then contexts and continuations share one pass with gradients.
Supported are full attention, sliding windows and gated delta layers. `check` tests a model and refuses one
with other layers.
"""

import random
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from agents.trainer.memory_estimate import HEAD_TOKENS, READ_TOKENS
from agents.trainer.scoring.compute import computing
from agents.trainer.scoring.packing import ContextRead, Packing, Piece, Tokens, forward
from agents.trainer.scoring.prefix_cache import PrefixCache
from corpus.errors import TrainerFault

KINDS = frozenset({"full_attention", "sliding_attention", "linear_attention"})
TOLERANCE = 1e-3
"""Largest difference (nats) that `check` accepts between this module's and a full pass's log-probability of a
continuation of `ANSWER` tokens, in float32. Dense attention stays below 1e-5. Gated delta layers stay below
1e-4: they process chunks of 64 tokens, which begin at other tokens here."""
COARSE = 0.01
"""The largest accepted difference in 16-bit types, as a share of the log-probability. Rounding alone has this
effect."""
ANSWER = 6
"""Number of tokens of the continuations that `check` scores."""
LONGEST = 8192
"""Largest number of tokens of a context that `check` scores. A longer sliding window is not tested."""
_passed: "WeakSet[Any]" = WeakSet()


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The log-probabilities of n continuations, given their contexts."""

    total: torch.Tensor
    """(n,) float32, nats, summed over the tokens."""
    tokens: torch.Tensor
    """(n,) number of tokens, at least 1."""

    @property
    def mean(self) -> torch.Tensor:
        """Return the nats per token, (n,)."""
        return self.total / self.tokens


def scores(
    model: Any,
    contexts: Sequence[Tokens],
    continuations: Sequence[Sequence[Tokens]],
    *,
    train: bool,
    context_gradient: bool = False,
    checkpointing: bool = False,
    compute: str = "weights",
) -> list[Scores]:
    """Return the log-probabilities of k continuations of each of n contexts, as k `Scores` of n.

    Args:
        model: The model.
        contexts: Token ids of n contexts, each of at least one token.
        continuations: k lists, each with a continuation of every context, of at least one token.
        train: Whether to keep the graph for gradients.
        context_gradient: Whether gradients flow through the contexts too.
        checkpointing: Whether to compute activations again in the backward pass instead of storing them.
        compute: Type in which matrices are multiplied: see `compute.py`.
    """
    if any(not row for row in contexts) or any(not row for rows in continuations for row in rows):
        raise TrainerFault(
            "a context and a continuation have at least one token each; leave such examples out"
        )
    device = device_of(model, [*contexts, *(row for rows in continuations for row in rows)])
    model.eval()  # dropout would make scores random
    n, recurrent = len(contexts), is_recurrent(model)
    pasts, which = share_prefixes([tuple(row[:-1]) for row in contexts], equal=recurrent)
    rows = [row for group in continuations for row in group]
    order = sorted(range(len(rows)), key=lambda r: which[r % n])
    # The input is the context's last token and all but the last of the continuation, which it predicts.
    pieces = [
        Piece(tokens=[contexts[r % n][-1], *rows[r][:-1]], past=which[r % n], first=len(contexts[r % n]) - 1)
        for r in order
    ]
    wanted = torch.tensor([token for r in order for token in rows[r]], device=device)
    with nullcontext() if train else torch.no_grad():
        whole = train and context_gradient
        past = PrefixCache() if whole else read(model, pasts, compute=compute)
        lanes = _lanes(pieces, pasts if whole else [()] * len(pasts), apart=recurrent)
        packing = Packing(lanes, past, device=device)
        with computing(compute, device):
            hidden = forward(
                model, packing, recurrent=recurrent and not whole, checkpointing=train and checkpointing
            )
            each = _logprobs(model, hidden[packing.picked], wanted, train=train, checkpointing=checkpointing)
        totals = torch.stack([part.sum() for part in torch.split(each, [len(rows[r]) for r in order])])
    totals = totals[torch.tensor(order, device=device).argsort()]
    counts = torch.tensor([len(row) for row in rows], device=device)
    return [Scores(total=totals[i : i + n], tokens=counts[i : i + n]) for i in range(0, len(rows), n)]


def share_prefixes(
    rows: Sequence[tuple[int, ...]], *, equal: bool = False
) -> tuple[list[tuple[int, ...]], list[int]]:
    """Return the rows that are not a prefix of another row, and an index for each row.

    The index of a row in `rows` is the place, in the returned rows, of a row that begins with it. `equal`: a
    row counts as a prefix only of an equal row.
    """
    kept: list[tuple[int, ...]] = []
    which = [0] * len(rows)
    # In sorted order, a row comes right before the rows that begin with it. In reverse order, the row that
    # was kept last is one of these.
    for i in sorted(range(len(rows)), key=lambda i: rows[i], reverse=True):
        if not kept or kept[-1][: None if equal else len(rows[i])] != rows[i]:
            kept.append(rows[i])
        which[i] = len(kept) - 1
    return kept, which


def _lanes(pieces: Sequence[Piece], pasts: Sequence[Tokens], *, apart: bool) -> list[list[Piece]]:
    """Return lanes, in which each piece comes after its context: one lane or, if `apart`, one per piece."""
    lanes: list[list[Piece]] = []
    for piece in pieces:
        opened = lanes and not apart
        lane = lanes[-1] if opened else []
        if pasts[piece.past] and not (opened and lane[-1].past == piece.past):
            lane.append(Piece(tokens=pasts[piece.past], past=piece.past, context=True))
        lane.append(piece)
        if not opened:
            lanes.append(lane)
    return lanes


@torch.no_grad()
def read(model: Any, pasts: Sequence[Tokens], *, compute: str = "weights") -> PrefixCache:
    """Run the contexts through the model and return their cache; an empty context adds nothing to it."""
    past, last, one_by_one = PrefixCache(), len(model.base_model.layers) - 1, is_recurrent(model)
    device = model.get_input_embeddings().weight.device
    lane: list[Piece] = []
    filled = 0
    for number, tokens in enumerate(pasts):
        if tokens:
            lane.append(Piece(tokens=tokens, past=number, context=True))
            filled += len(tokens)
        ahead = len(pasts[number + 1]) if number + 1 < len(pasts) else READ_TOKENS
        if lane and (one_by_one or filled + ahead > READ_TOKENS):
            packing = Packing([lane], past, device=device, last=last)
            try:
                with computing(compute, device):
                    forward(model, packing, recurrent=one_by_one)
            except ContextRead:
                pass  # the last layer's keys and values are all that is needed
            lane, filled = [], 0
    return past


def _logprobs(
    model: Any, hidden: torch.Tensor, wanted: torch.Tensor, *, train: bool, checkpointing: bool
) -> torch.Tensor:
    """Return the log-probability (nats, float32) of each wanted token; `hidden`: the states before it."""
    head = model.get_output_embeddings()

    def score(states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return -cross_entropy(head(states).to(torch.float32), targets, reduction="none")

    if train and not checkpointing:
        return score(hidden, wanted)
    parts = zip(torch.split(hidden, HEAD_TOKENS), torch.split(wanted, HEAD_TOKENS), strict=True)
    return torch.cat([checkpoint(score, states, targets, use_reentrant=False) for states, targets in parts])


def is_recurrent(model: Any) -> bool:
    """Return whether the model has layers that carry a state along the row."""
    return "linear_attention" in (getattr(model.config, "layer_types", None) or ())


def device_of(model: Any, rows: Sequence[Tokens]) -> torch.device:
    """Return the device of the model's inputs; raise TrainerFault if a token id is not in the vocabulary.

    On a GPU an unknown token id would end the process.
    """
    table = model.get_input_embeddings().weight
    if any(not 0 <= token < table.shape[0] for row in rows for token in row):
        raise TrainerFault(
            f"a token id is not in 0 to {table.shape[0] - 1}; this is another model's tokenizer"
        )
    device: torch.device = table.device
    return device


def check(model: Any) -> None:
    """Raise TrainerFault if this module would score the model wrongly.

    The first check of a model scores a few tokens; later checks of the same model return at once.
    """
    if model in _passed:
        return
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds - KINDS:
        raise TrainerFault(
            f"this model has {', '.join(sorted(kinds - KINDS))} layers, which cannot be trained so far"
        )
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        raise TrainerFault(
            f"this model's {rope['rope_type']} positions depend on the batch; it cannot be trained so far"
        )
    window = getattr(config, "sliding_window", None)
    longest = window + 8 if window and window + 8 <= LONGEST else 80
    try:
        packed, full = _both_ways(model, longest)
    except (AttributeError, TypeError, ValueError, RuntimeError, KeyError, IndexError) as error:
        raise TrainerFault(
            f"this model cannot be read packed ({type(error).__name__}: {error}); it cannot be trained"
        ) from error
    worst = max(abs(a - b) for a, b in zip(packed, full, strict=True))
    exact = all(p.dtype == torch.float32 for p in model.parameters())
    allowed = TOLERANCE if exact else max(TOLERANCE, COARSE * max(map(abs, full)))
    if not worst <= allowed:
        raise TrainerFault(
            f"{ANSWER} tokens after a frozen context score {worst:.3g} nats apart from a full pass (rounding "
            f"explains {allowed:.3g}): {type(model).__name__} computes something that the trainer does not "
            "support; train another model"
        )
    _passed.add(model)


def _both_ways(model: Any, longest: int) -> tuple[list[float], list[float]]:
    """Return log-probabilities of random continuations of several contexts: packed, and from full passes."""
    draw = random.Random(0)
    size = model.get_input_embeddings().weight.shape[0]

    def row(length: int) -> list[int]:
        return [draw.randrange(size) for _ in range(length)]

    long = row(longest)
    contexts = [long, long[: longest // 2], row(2), row(1)]
    sides = [[row(ANSWER) for _ in contexts], [row(ANSWER - 2) for _ in contexts]]
    packed = scores(model, contexts, sides, train=False)
    full = [
        _full(model, context, answer)
        for side in sides
        for context, answer in zip(contexts, side, strict=True)
    ]
    return [float(total) for scored in packed for total in scored.total], full


@torch.no_grad()
def _full(model: Any, context: list[int], answer: list[int]) -> float:
    """Return the log-probability of an answer, from one plain pass over context and answer."""
    device = model.get_input_embeddings().weight.device
    tokens = torch.tensor([[*context, *answer]], device=device)
    logits = model(input_ids=tokens, use_cache=False).logits[0, len(context) - 1 : -1]
    each = torch.log_softmax(logits.to(torch.float32), dim=-1).gather(-1, tokens[0, len(context) :, None])
    return float(each.sum())
