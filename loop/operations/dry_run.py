"""`night --dry-run`: compute the training steps that a night would make with the pairs in the ledger.

Invariant: the command changes nothing. The trainer computes the steps from the active weights. A real night
would first make more pairs from the new lessons. The dry run only counts these lessons.
"""

from dataclasses import asdict, dataclass, replace

from sqlalchemy import Connection

from agents.pairs.propose import Proposal
from agents.trainer.messages import StepReport
from corpus.errors import GateRefused, StepRefused, UsageError
from loop.engine.service import Service
from loop.night.handlers import train_handler
from loop.night.propose import proposal as propose
from loop.operations.results.nights import DryRun
from store import graph, queries
from store.ledger.db import now
from store.ledger.records import Pair, Update, seed_of
from store.queue import work


@dataclass(frozen=True, kw_only=True)
class _AtHand:
    """The update that a night would make from the pairs in the ledger."""

    report: DryRun
    """The report of the dry run, which has no steps yet."""
    update: Update
    pairs: list[Pair]
    """The new pairs and the replay, sorted by id as a real night reads them from the ledger."""


async def dry_run(service: Service, *, seed: int, retry: bool) -> DryRun:
    """Return the training steps of the update that a night would make from the pairs in the ledger.

    Args:
        service: The opened service.
        seed: The seed of the night.
        retry: Whether to use the pairs of undone updates too.
    """
    if await service.ledger.read(queries.running_night) is not None:
        raise GateRefused("a night is running, and trains anyway: wait for its end (`nightschool status`)")
    await service.processes.wait_ready()
    at_hand = await service.ledger.read(_at_hand, service, seed, retry)
    if not at_hand.pairs:
        return at_hand.report
    steps: list[dict[str, int | float]] = []

    def on_step(step: StepReport) -> None:
        steps.append({"step": step.step, "steps": step.steps, **step.metrics})
        service.worker.announce("train", "update", step.step, step.steps)

    reasons = at_hand.report.reasons
    try:
        await train_handler(service.context).dry_run(at_hand.update, at_hand.pairs, on_step)
    except (StepRefused, GateRefused, UsageError) as refused:
        reasons = [*reasons, f"the update would be refused: {refused}"]
    return replace(at_hand.report, steps=steps, reasons=reasons)


def _at_hand(connection: Connection, service: Service, seed: int, retry: bool) -> _AtHand:
    """Return the update that the next night would make from the pairs in the ledger.

    Args:
        connection: The ledger.
        service: The opened service.
        seed: The seed of the night.
        retry: Whether to use the pairs of undone updates too.
    """
    last = queries.last_night(connection)
    night_id = f"n{last.number + 1 if last else 1}"
    lessons = graph.new_lessons(connection, queries.cursor(connection))
    pairs = [*queries.pairs(connection, "new"), *(queries.pairs(connection, "undone") if retry else [])]
    proposal = propose(
        service.context,
        sorted(pairs, key=lambda pair: pair.id),
        queries.pairs(connection, "used"),
        minimum=1,
        seed=seed_of(seed, "replay", night_id),
    )
    source, proposal, reasons = _or_last_kept(connection, proposal)
    active = queries.active(connection).id
    report = DryRun(
        checkpoint=active,
        objective=service.settings.training.objective,
        of=source,
        pairs=len(proposal.new),
        replay=len(proposal.replay),
        conversations=work.counts(connection, "ready").get("extract", 0),
        lessons=len(lessons),
        targets=sorted({service.context.base_behaviour(str(signal.behaviour)) for signal, _ in lessons}),
        reasons=reasons,
        steps=[],
    )
    members = sorted([*proposal.new, *proposal.replay], key=lambda pair: pair.id)
    update = Update(
        id="",
        night_id=night_id,
        objective=service.settings.training.objective,
        settings=asdict(service.context.training(len(members))),
        seed=seed_of(seed, "train", night_id),
        parent_id=active,
        at=now(),
    )
    return _AtHand(
        report=report,
        update=update,
        pairs=members,
    )


def _or_last_kept(connection: Connection, proposal: Proposal) -> tuple[str, Proposal, list[str]]:
    """Return the proposal, or the pairs of the last kept update if the proposal has no new pairs.

    Returns:
        The source of the pairs, the proposal to use, and the reasons for a replacement.
    """
    if proposal.new:
        return "new pairs", proposal, []
    kept = queries.last_trained(connection)
    if kept is None:
        reason = "there are no new pairs, and no kept update whose pairs could be used instead"
        return "nothing", proposal, [reason]
    rows = queries.pairs_of(connection, kept.id)
    again = Proposal(new=[row for row in rows if not row.replay], replay=[row for row in rows if row.replay])
    reason = f"there are no new pairs: these are the ones of update {kept.id}"
    return f"update {kept.id}", again, [reason]
