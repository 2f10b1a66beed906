"""Work of kind `propose`: choose the pairs of the night's update, or give the reason for no update.

Invariant: the choice depends only on the ledger, the settings and the night's seed.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from agents.pairs.propose import Proposal, SourceCaps, propose
from agents.pairs.propose import count_teaching as count
from agents.trainer.memory_estimate import checkpoint_bytes
from corpus.aliases import Progress
from corpus.errors import GateRefused
from loop.config import OBSERVING
from loop.night.context import NightContext
from store import queries
from store.ledger.db import now
from store.ledger.records import Night, Pair, Update, UpdatePair, seed_of
from store.queue.outcome import Change, Outcome
from store.queue.work import Work


def _caps(context: NightContext) -> SourceCaps:
    """Return how much one source, and one answer, may contribute to an update."""
    pairs = context.settings.pairs
    return SourceCaps(per_source=pairs.per_source, alike_per_source=pairs.alike_per_source, alike=pairs.alike)


def count_teaching(context: NightContext, new: Sequence[Pair]) -> int:
    """Return the number of these new pairs that teach a behaviour.

    Pairs of counter-behaviours do not count, because they alone make no update. Pairs of one source beyond
    its cap do not count either.
    """
    return count(new, caps=_caps(context), counters=context.counters())


def proposal(
    context: NightContext,
    new: Sequence[Pair],
    used: Sequence[Pair],
    *,
    minimum: int,
    seed: int,
) -> Proposal:
    """Return the pairs chosen for an update, or the reason why they make none.

    Args:
        context: The opened home.
        new: The new pairs to choose from.
        used: The pairs of kept updates, from which replay is drawn.
        minimum: Number of new pairs that an update needs.
        seed: The seed of the draw.
    """
    return propose(
        new,
        used,
        minimum=minimum,
        caps=_caps(context),
        counters=context.counters(),
        replay_share=context.settings.training.replay,
        seed=seed,
    )


def refusal(context: NightContext, active_id: str) -> str:
    """Return the reason why no update may be made now, although there are pairs; "" if one may be made.

    Args:
        context: The opened home.
        active_id: The active checkpoint, from whose size the needed disk space is estimated.
    """
    if not context.settings.trains:
        return OBSERVING
    try:
        specs = context.store.specs(active_id)
        context.store.require_space(checkpoint_bytes(specs, context.training(pairs=0)))
    except GateRefused as refused:
        return str(refused)
    return ""


@dataclass(frozen=True)
class Propose:
    """The stage that chooses the pairs of the night's update."""

    context: NightContext

    async def handle(self, item: Work, report: Progress) -> Outcome:
        """Return an outcome with the new update and its pairs; its decision is "update" or "nothing"."""
        context, ledger = self.context, self.context.ledger
        night = await ledger.read(queries.night, item.night_id)
        new = await ledger.read(queries.pairs, "new")
        used = await ledger.read(queries.pairs, "used")
        seed = seed_of(night.seed, "replay", item.night_id)
        chosen = proposal(context, new, used, minimum=context.settings.pairs.minimum, seed=seed)
        active = await ledger.read(queries.active)
        reason = chosen.reason or refusal(context, active.id)
        if reason:
            reasons = Change(table="nights", where={"id": item.night_id}, values={"reasons": [reason]})
            return Outcome(decision="nothing", changes=(reasons,), facts={"reason": reason})
        update = self._update(night, active.id, pairs=len(chosen.new) + len(chosen.replay))
        members = [
            UpdatePair(update_id=update.id, pair_id=pair.id, replay=replay)
            for pairs, replay in ((chosen.new, False), (chosen.replay, True))
            for pair in pairs
        ]
        plan = Change(
            table="nights", where={"id": item.night_id}, values={"targets": self._targets(night, chosen)}
        )
        taken = {pair.id for pair in chosen.new}
        over = [pair.id for pair in new if pair.id not in taken]
        # If these pairs stayed new, later nights would train them all the same, in spite of the cap.
        left = Change(table="pairs", where={"id": over}, values={"state": "over_cap"})
        return Outcome(
            decision="update",
            names=context.measured,
            records=(update, *members),
            changes=(plan, left),
            facts={"pairs": len(chosen.new), "replay": len(chosen.replay), "over_cap": len(over)},
        )

    def _update(self, night: Night, parent_id: str, *, pairs: int) -> Update:
        """Return the row of the night's update, with the settings of its training."""
        return Update(
            id=f"u{night.number}",
            night_id=night.id,
            objective=self.context.settings.training.objective,
            settings=asdict(self.context.training(pairs)),
            seed=seed_of(night.seed, "train", night.id),
            parent_id=parent_id,
            at=now(),
        )

    def _targets(self, night: Night, chosen: Proposal) -> list[str]:
        """Return the names of the night's targets and of the behaviours that the chosen new pairs teach."""
        named = {pair.behaviour for pair in chosen.new} - self.context.counters()
        return sorted(named | set(night.targets))
