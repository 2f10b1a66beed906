"""Computes an objective's loss from examples: scores their answers and compares them with the references.

KTO's z_0 estimates how far the weights have moved from the reference. It is the mean of log(pi(y'|x) /
pi_ref(y'|x)) over mismatched answers y', which belong to another context than x, or 0 if that mean is
negative (arXiv 2402.01306, section 4.1). The paper takes y' from the next row of the batch. This module takes
y' from the next example of the whole update that has another context; the first example follows the last.
This has three effects. A batch of one example has an estimate too. All passes of a step share one estimate.
The reference weights score the mismatched answers only once, at the start, when the model still has these
weights. The cost is one more pass without gradients in every step. If all examples of an update have the same
context, there are no mismatched answers, and z_0 is 0.

Invariant: the loss depends on the model's weights, the examples and the settings alone. The losses of a
step's passes add up to the step's loss, if each is computed with the step's `count` and `point`. This module
knows nothing about the optimizer or the shared weights.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from agents.trainer.messages import Example, Settings, TrainRequest
from agents.trainer.scoring import prefix_scoring
from agents.trainer.scoring.packing import Tokens
from agents.trainer.update import losses

WITH_REFERENCES = ("dpo", "dpop", "kto")
"""The objectives that compare the weights with the parent's."""


@dataclass(frozen=True, kw_only=True)
class Mismatched(Example):
    """An example of KTO, with the answers to another context."""

    others: tuple[Sequence[int], Sequence[int]]
    """Chosen and rejected answer of the other example."""
    reference_others: float
    """Log-probability (nats, summed over both answers) of `others` after this context, under the reference
    weights."""


def loss_of(
    model: Any,
    objective: str,
    settings: Settings,
    rows: Sequence[Example],
    *,
    train: bool,
    count: int | None = None,
    point: float | None = None,
) -> losses.Loss:
    """Return the loss and metrics of these examples, which must come from `with_references`.

    Args:
        model: The model with the current weights.
        objective: One of `messages.Objective`.
        settings: Settings of the update.
        rows: Examples of one pass.
        train: Whether to keep the graph for gradients.
        count: Number of examples in the whole step; None: the number of `rows`.
        point: The step's `reference_point`, for KTO; None: computed from `rows`.
    """
    beta = settings.beta
    if objective == "kto" and point is None:
        point = reference_point(model, settings, rows)
    sides = [[row.chosen for row in rows]]
    if objective != "sft":
        sides.append([row.rejected for row in rows])
    chosen, *others = prefix_scoring.scores(
        model,
        [row.context for row in rows],
        sides,
        train=train,
        context_gradient=settings.context_gradient,
        checkpointing=settings.activation_checkpointing,
        compute=settings.compute,
    )
    device = chosen.total.device
    weights = torch.tensor([row.weight for row in rows], device=device)
    if objective == "sft":
        return losses.sft(chosen, weights, count=count)
    (rejected,) = others
    if objective == "orpo":
        return losses.orpo(chosen, rejected, weights, strength=beta, count=count)
    if objective == "simpo":
        return losses.simpo(chosen, rejected, weights, beta=beta, margin=settings.simpo_margin, count=count)
    references = torch.tensor([[row.reference_chosen, row.reference_rejected] for row in rows], device=device)
    if objective == "kto":
        lambdas = {"desirable": settings.desirable_weight, "undesirable": settings.undesirable_weight}
        return losses.kto(
            chosen,
            rejected,
            references,
            weights,
            beta=beta,
            reference_point=point or 0.0,
            count=count,
            **lambdas,
        )
    penalty = settings.dpop_penalty if objective == "dpop" else 0.0
    return losses.dpo(chosen, rejected, references, weights, beta=beta, penalty=penalty, count=count)


def reference_point(model: Any, settings: Settings, rows: Sequence[Example]) -> float:
    """Return KTO's z_0 (nats, at least 0) for a step of these examples; 0 without mismatched answers."""
    known = [row for row in rows if isinstance(row, Mismatched)]
    if not known:
        return 0.0
    totals = _totals(model, settings, [(row.context, *row.others) for row in known])
    # arXiv 2402.01306, section 4.1: z_0 = max(0, 1/m sum_i log(pi(y_j|x_i) / pi_ref(y_j|x_i))).
    divergence = math.fsum(sum(both) - row.reference_others for both, row in zip(totals, known, strict=True))
    return max(0.0, divergence / (2 * len(known)))


def with_references(model: Any, request: TrainRequest) -> Sequence[Example]:
    """Return the examples with the references that the objective needs.

    The model must hold the parent's weights. An example that has both references keeps them, unless the
    update computes in bfloat16: then all are computed again, rounded like the passes that they serve.
    """
    if request.objective not in WITH_REFERENCES:
        return request.examples
    rows = request.examples
    if request.settings.compute == "bfloat16":
        rows = [replace(row, reference_chosen=None, reference_rejected=None) for row in rows]
    rows = _referred(model, request.settings, rows)
    return _mismatched(model, request.settings, rows) if request.objective == "kto" else rows


def _referred(model: Any, settings: Settings, examples: Sequence[Example]) -> list[Example]:
    """Return the examples with references for both answers."""
    rows = list(examples)
    missing = [
        i for i, row in enumerate(rows) if row.reference_chosen is None or row.reference_rejected is None
    ]
    totals = _totals(model, settings, [(rows[i].context, rows[i].chosen, rows[i].rejected) for i in missing])
    for i, (chosen, rejected) in zip(missing, totals, strict=True):
        rows[i] = replace(rows[i], reference_chosen=chosen, reference_rejected=rejected)
    return rows


def _mismatched(model: Any, settings: Settings, examples: Sequence[Example]) -> list[Example]:
    """Return the examples, each with mismatched answers (see the module) and their reference."""
    rows, n = list(examples), len(examples)
    answers_by_row = {}
    for i, row in enumerate(rows):
        ring = (rows[(i + k) % n] for k in range(1, n))
        other = next((other for other in ring if other.context != row.context), None)
        if other is not None:
            answers_by_row[i] = (other.chosen, other.rejected)
    totals = _totals(model, settings, [(rows[i].context, *answers) for i, answers in answers_by_row.items()])
    for (i, answers), both in zip(answers_by_row.items(), totals, strict=True):
        rows[i] = Mismatched(**vars(rows[i]), others=answers, reference_others=sum(both))
    return rows


def _totals(
    model: Any,
    settings: Settings,
    rows: Sequence[tuple[Tokens, Tokens, Tokens]],
) -> Iterator[tuple[float, float]]:
    """Yield the summed log-probabilities (nats) of each row's two continuations.

    Each row of `rows` is a context with two continuations, as token ids.
    """
    size = settings.micro_batch or settings.batch_size
    for start in range(0, len(rows), size):
        contexts, first, second = (list(side) for side in zip(*rows[start : start + size], strict=True))
        scored = prefix_scoring.scores(
            model, contexts, [first, second], train=False, compute=settings.compute
        )
        yield from zip(*(side.total.tolist() for side in scored), strict=True)
