"""From examples to the loss of the objective: which sides are scored, against which references.

KTO's z_0 is the divergence of the weights from the reference, estimated on mismatched answers (arXiv
2402.01306, section 4.1): log(pi(y'|x) / pi_ref(y'|x)), y' the answers to another context. The paper takes y'
from the next row of the batch; here it comes from the next example of the whole update, in a ring, that has
another context. So a batch of one has an estimate too, the passes of a step share one estimate, and the
reference side is scored once, at the start, while the model still is the reference. The price is one more
pass without gradients in every step. If all examples of an update have one context there are no mismatched
answers, and z_0 is 0.

Invariant: the loss depends on the model's weights, the examples and the settings alone; the losses of a
step's passes, each with the step's `count` and `point`, add up to the step's loss. This module knows nothing
about the optimizer or the shared weights.
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
    """An example with the answers to another context, for KTO."""

    others: tuple[Sequence[int], Sequence[int]]
    """Chosen and rejected answer of the other example."""
    reference_others: float
    """Log-probability (nats, summed over both) of `others` in this context, under the reference."""


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
    """Return the objective's loss over these examples, which `with_references` has completed.

    Args:
        model: The model with the current weights.
        objective: One of `messages.Objective`.
        settings: Of the update.
        rows: Examples of one pass.
        train: Keep the graph for gradients.
        count: Number of examples in the whole step; None: these examples are the step.
        point: The step's `reference_point`; None: computed from these examples.
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
    """Return KTO's z_0 for a step of these examples, nats, 0 or above; 0 without mismatched answers."""
    known = [row for row in rows if isinstance(row, Mismatched)]
    if not known:
        return 0.0
    totals = _totals(model, settings, [(row.context, *row.others) for row in known])
    # arXiv 2402.01306, section 4.1: z_0 = max(0, 1/m sum_i log(pi(y_j|x_i) / pi_ref(y_j|x_i))).
    divergence = math.fsum(sum(both) - row.reference_others for both, row in zip(totals, known, strict=True))
    return max(0.0, divergence / (2 * len(known)))


def with_references(model: Any, request: TrainRequest) -> Sequence[Example]:
    """Return the examples with the objective's references; the model must hold the parent's weights.

    An example keeps a reference that it already has.
    """
    if request.objective not in WITH_REFERENCES:
        return request.examples
    rows = _referred(model, request.settings, request.examples)
    return _mismatched(model, request.settings, rows) if request.objective == "kto" else rows


def _referred(model: Any, settings: Settings, examples: Sequence[Example]) -> list[Example]:
    """Return the examples with a reference for each side."""
    rows = list(examples)
    missing = [
        i for i, row in enumerate(rows) if row.reference_chosen is None or row.reference_rejected is None
    ]
    totals = _totals(model, settings, [(rows[i].context, rows[i].chosen, rows[i].rejected) for i in missing])
    for i, (chosen, rejected) in zip(missing, totals, strict=True):
        rows[i] = replace(rows[i], reference_chosen=chosen, reference_rejected=rejected)
    return rows


def _mismatched(model: Any, settings: Settings, examples: Sequence[Example]) -> list[Example]:
    """Return the examples with the answers to the next other context in the ring, and their reference."""
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
    """Yield the summed log-probabilities (nats) of two continuations of each context."""
    size = settings.micro_batch or settings.batch_size
    for start in range(0, len(rows), size):
        contexts, first, second = (list(side) for side in zip(*rows[start : start + size], strict=True))
        scored = prefix_scoring.scores(model, contexts, [first, second], train=False)
        yield from zip(*(side.total.tolist() for side in scored), strict=True)
