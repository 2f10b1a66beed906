"""The trial of the places where a prompt may carry an instruction, and what follows from its figures.

A model may ignore an instruction in its system prompt and follow the same words at the end of the request.
So the first dreams that fail without the instruction are answered once more without it, and once with it in
each place. The place with the greatest lift, passes told minus passes alone, is the behaviour's.

Invariant: pure. Every place gets the same dreams and the same number of answers.
"""

from collections.abc import Mapping

from corpus.behaviour import Behaviour
from corpus.prompts import PLACEMENTS, Placement
from store.ledger.placement_trial import PlacementTrial
from store.ledger.records import identity

DREAMS = 12
"""Number of dreams of a trial."""
LEAST_DREAMS = 4
"""Fewer dreams show nothing: then the trial is not recorded, and nothing is refused because of it."""
LEAST_LIFT = 1 / 6
"""Smallest lift that counts, as a share of the dreams: with less, a good answer costs over six."""
LEAST_PASSES = 2
"""Smallest lift that counts, in passes: one pass more is chance."""


def rule_digest(behaviour: Behaviour) -> str:
    """Return the digest of a behaviour's instruction; a changed instruction is tried anew."""
    return identity("rule", behaviour.instruction)


def best_placement(told: Mapping[str, int]) -> Placement:
    """Return the placement with the most passes; of equal ones the first in the order of `PLACEMENTS`."""
    return max(PLACEMENTS, key=lambda placement: told.get(placement, 0))


def lifts(dreams: int, alone: int, told: int) -> bool:
    """Return whether answers with the instruction pass often enough more than answers without it.

    Args:
        dreams: Number of dreams of the trial.
        alone: Passes without the instruction.
        told: Passes with the instruction, in the best place.
    """
    return told - alone >= max(LEAST_PASSES, LEAST_LIFT * dreams)


def still_works(known: PlacementTrial, *, passed: int, trials: int) -> bool:
    """Return whether a placement that was measured on an earlier night still works.

    It does unless, over at least DREAMS answers, it passes less than half as often as in its trial.
    """
    then = known.told.get(known.placement or "", 0) / max(known.dreams, 1)
    return trials < DREAMS or passed >= then * trials / 2


def no_lift(trial: PlacementTrial, do: str = "") -> str:
    """Return the sentence for the user about a trial in which no placement lifted.

    Args:
        trial: The trial.
        do: What the behaviour asks of the model, as a clause; "" leaves it out.
    """
    told = ", ".join(f"{place} {trial.told.get(place, 0)} of {trial.dreams}" for place in PLACEMENTS)
    what = f"({do}) " if do else ""
    return (
        f"no update for {trial.behaviour}: the model does not do it {what}even when told: {told}; "
        f"untold {trial.alone} of {trial.dreams}"
    )
