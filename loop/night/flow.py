"""The order of a night: the kinds of work, their handlers, and the work that follows each outcome.

    extract                                            (at any time, once for each conversation)
    plan -> listen to turns -> [dream, attempt, pair] for each behaviour -> listen to attempts -> propose
         -> measure and read before -> train -> measure and read after -> locate -> rule -> settle
    a merge, which a user begins: measure and read before -> merge -> ... then as after train
    an undone update made again without one source: measure and read before -> train -> ...

Invariant: pure. Work runs in the order in which it is queued. A night always ends with work of kind `settle`,
even after a failure: that work puts the active checkpoint into the shared weights and closes the night.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from store.queue.outcome import Outcome
from store.queue.work import Work

FollowUp = tuple[str, str]
"""Work to queue, as (kind, subject)."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """The description of one kind of work."""

    handler: str
    """Module and class of the handler; `loop.night.handlers` makes the instance."""
    task: str
    """The task of this kind of work, in a few words."""
    method: str = "handle"
    """Name of the handler's method that does this kind of work."""
    by_night: bool = True
    """Whether this work belongs to a night and so needs the model server and the trainer."""
    decides: bool = False
    """Whether the night cannot go on if this work fails."""


KINDS: dict[str, Kind] = {
    "extract": Kind(
        handler="agents.extractor.handler.Extractor",
        task="find the signals of a conversation and the lessons in them",
        by_night=False,
    ),
    "plan": Kind(
        handler="loop.night.plan.Plan", task="choose the behaviours that have new lessons", decides=True
    ),
    "listen": Kind(
        handler="loop.night.record_activations.RecordActivations",
        task="read the concepts in the activations of turns, or of attempts",
    ),
    "dream": Kind(handler="agents.dreamer.dream.Dreamer", task="dream new situations for a behaviour"),
    "attempt": Kind(
        handler="agents.pairs.attempts.Attempter", task="have the served model answer the dreams"
    ),
    "pair": Kind(handler="agents.pairs.build.PairBuilder", task="make preference pairs of the attempts"),
    "propose": Kind(
        handler="loop.night.propose.Propose", task="choose the pairs of the update", decides=True
    ),
    "measure": Kind(
        handler="loop.night.measure.Measure", task="measure one behaviour on its held-out scenarios"
    ),
    "read": Kind(handler="loop.night.readings.TakeReadings", task="take the readings on the probe set"),
    "train": Kind(
        handler="agents.trainer.handler.TrainHandler", task="train the update on its pairs", decides=True
    ),
    "merge": Kind(
        handler="agents.trainer.handler.TrainHandler",
        method="merge",
        task="add task vectors to the weights",
        decides=True,
    ),
    "locate": Kind(handler="loop.night.locate.Locate", task="find where in the weights the update lies"),
    "rule": Kind(
        handler="loop.night.decide.Decide", task="keep the update, undo it, or measure again", decides=True
    ),
    "settle": Kind(
        handler="loop.night.finalize.Finalize", task="serve the active checkpoint and close the night"
    ),
}
"""Every kind of work, by its name in the ledger."""
NIGHT_KINDS = tuple(kind for kind, entry in KINDS.items() if entry.by_night)
"""The kinds of work that belong to a night."""
DECIDING = tuple(kind for kind, entry in KINDS.items() if entry.decides)
"""The kinds of work without whose outcome a night cannot go on."""
_CLOSE = ("settle", "night")


def follow(item: Work, outcome: Outcome) -> list[FollowUp]:
    """Return the work to queue after a piece of work has had this outcome."""
    match item.kind, outcome.decision:
        case "plan", "nothing":
            work = [("listen", "turns"), _CLOSE]
        case "plan", _:
            lessons = [(kind, name) for name in outcome.names for kind in ("dream", "attempt", "pair")]
            work = [("listen", "turns"), *lessons, ("listen", "attempts"), ("propose", "update")]
        case ("propose", "nothing") | ("train" | "merge", "refused"):
            work = [_CLOSE]
        case "propose", _:
            work = [*_before(outcome.names), ("train", "update")]
        case "train" | "merge", _:
            work = [
                *_measure("after", 0, outcome.names),
                ("read", "after"),
                ("locate", "update"),
                ("rule", "0"),
            ]
        case "rule", "inconclusive":
            round_ = int(item.subject) + 1
            again = [*_measure("before", round_, outcome.names), *_measure("after", round_, outcome.names)]
            work = [*again, ("rule", str(round_))]
        case "rule", _:
            work = [_CLOSE]
        case _:
            work = []
    return work


def merging(names: Sequence[str]) -> list[FollowUp]:
    """Return the first work of a merge's night; the update of such a night is planned already.

    Args:
        names: Everything that is measured before and after the merge.
    """
    return [*_before(names), ("merge", "update")]


def repeating(names: Sequence[str]) -> list[FollowUp]:
    """Return the first work of a night that makes an undone update again; that update is planned already.

    Args:
        names: Everything that is measured before and after it.
    """
    return [*_before(names), ("train", "update")]


def follow_failure(item: Work) -> list[FollowUp]:
    """Return the work to queue after this work was quarantined: the end of the night, if it decides."""
    return [_CLOSE] if item.kind in DECIDING else []


def _before(names: Sequence[str]) -> list[FollowUp]:
    """Return the work that comes before an update: the first round of measuring, and the readings."""
    return [*_measure("before", 0, names), ("read", "before")]


def _measure(when: str, round_: int, names: Sequence[str]) -> list[FollowUp]:
    """Return the work that measures these names in one round, "before" or "after" the update."""
    return [("measure", f"{when}/{round_}/{name}") for name in names]
