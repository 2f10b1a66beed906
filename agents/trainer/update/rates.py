"""Finds an update's learning rate from the relative size of its first step.

The first step of a fresh Apollo (as of Adam) has the size of the learning rate whatever the gradient: Adam
divides the gradient by its own size. So its norm over the weights' norm says what a rate means for a model of
any size, and is measured before anything is changed. The rate is such that this share is FIRST_SHARE
(`bench/rates.py` has the sweep). The step itself is not made at that
size: nothing is known yet of the gradient's noise, and the norm-growth limiter has no earlier step to hold it
against. So the rate rises over the first steps of a fresh optimizer.

Invariant: the rate depends on the parent's weights and the request alone, not on the optimizer's state, so an
update that is made again finds the same rate. This module knows nothing about the optimizer.
"""

import math

from agents.trainer.messages import Settings
from corpus.errors import StepRefused

WARMUP_STEPS = 4
"""Steps over which a rate that was found rises, unless `warmup_steps` is larger. Without them the loss of
SmolLM2 rises in the first step and takes six steps to come back (`bench/rates.py`)."""
FIRST_SHARE = 0.00055
"""The norm of a fresh optimizer's first step at the peak rate, as a share of the weights' norm: what suits
SmolLM2. At 0.0004 it learnt half as much, at 0.0008 its perplexity rose to 1.22x (`docs/real.md`)."""


def warmup_steps(settings: Settings) -> int:
    """Return the number of warm-up steps of an update with these settings."""
    return max(settings.warmup_steps, WARMUP_STEPS) if settings.lr == "auto" else settings.warmup_steps


def rate_for(share_at_one: float) -> float:
    """Return the learning rate at which a first step has FIRST_SHARE of the weights' norm.

    `share_at_one`: the share at a rate of 1, to which a step's size is proportional.

    Raises:
        StepRefused: the share says nothing, because the first step's gradients are 0 or not finite.
    """
    if not (math.isfinite(share_at_one) and share_at_one > 0):
        raise StepRefused(
            f"no learning rate can be found: the first step at a rate of 1 is {share_at_one:g} of the "
            "weights' norm; set training.lr, or leave out the examples that have no weight"
        )
    return FIRST_SHARE / share_at_one
