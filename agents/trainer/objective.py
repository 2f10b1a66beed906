"""From examples to the loss of the chosen objective: which sides are scored, against which references.

Invariant: the loss depends on the model's weights, the examples and the settings alone. Knows no optimizer and
no mapping.
"""

from collections.abc import Sequence
from typing import Any

import torch

from agents.trainer import frozen, losses
from agents.trainer.messages import Example, Settings, TrainRequest


def loss_of(model: Any, objective: str, settings: Settings, rows: Sequence[Example], *, train: bool) -> losses.Loss:
    """The objective's loss over these examples."""
    sides = [[row.chosen for row in rows]]
    if objective != "sft":
        sides.append([row.rejected for row in rows])
    scored = frozen.scores(model, [row.context for row in rows], sides, train=train)
    device = scored[0].total.device
    weights = torch.tensor([row.weight for row in rows], device=device)
    if objective == "sft":
        return losses.sft(scored[0], weights)
    if objective == "orpo":
        return losses.orpo(scored[0], scored[1], weights, settings.beta)
    references = torch.tensor([[r.reference_chosen, r.reference_rejected] for r in rows], device=device)
    return losses.dpo(scored[0], scored[1], references[:, 0], references[:, 1], weights, settings.beta)


def with_references(model: Any, request: TrainRequest) -> Sequence[Example]:
    """The examples, for DPO with a reference on each side: the parent's, where none was pinned."""
    if request.objective != "dpo":
        return request.examples
    completed = []
    for row in request.examples:
        if row.reference_chosen is None or row.reference_rejected is None:
            scored = frozen.scores(model, [row.context], [[row.chosen], [row.rejected]], train=False)
            row = Example(
                context=row.context,
                chosen=row.chosen,
                rejected=row.rejected,
                weight=row.weight,
                reference_chosen=float(scored[0].total),
                reference_rejected=float(scored[1].total),
            )
        completed.append(row)
    return completed
