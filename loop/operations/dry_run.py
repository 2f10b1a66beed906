"""`night --dry-run`: what a night would train on now, and what each step of that would be.

Invariant: reads only; the trainer computes at the active weights and changes nothing. A night would first dream,
and make more pairs, of the lessons that wait: they are named and not trained.
"""

from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection

from agents.pairs.propose import Proposal
from agents.trainer.handler import trainer_settings
from agents.trainer.messages import StepReport
from corpus.aliases import Json
from corpus.errors import GateRefused, StepRefused, UsageError
from loop.engine.service import Service
from loop.night.handlers import train_handler
from loop.night.propose import proposal as propose
from store import graph, queries
from store.ledger.db import now
from store.ledger.records import Update, seed_of
from store.queue import work


async def rehearse(service: Service, *, seed: int, retry: bool) -> Json:
    """The steps of the update that the pairs at hand would make."""
    if await service.ledger.read(queries.running_night) is not None:
        raise GateRefused("a night is running and trains by itself: wait for it (`nightschool status`)")
    await service.processes.wait_ready()
    told, update, pairs = await service.ledger.read(_at_hand, service, seed, retry)
    if not pairs:
        return told

    def on_step(made: StepReport) -> None:
        told["steps"].append({"step": made.step, "steps": made.steps, **made.metrics})
        service.worker.announce("train", "update", made.step, made.steps)

    try:
        await train_handler(service.context).dry_run(update, pairs, on_step)
    except (StepRefused, GateRefused, UsageError) as refused:
        told["reasons"].append(f"the update would be refused: {refused}")
    return told


def _at_hand(
    connection: Connection, service: Service, seed: int, retry: bool
) -> tuple[Json, Update, list[Any]]:
    """What is told whatever the steps will be; the update that they would be; its pairs."""
    last = queries.last_night(connection)
    night_id = f"n{last.number + 1 if last else 1}"
    lessons = graph.new_lessons(connection, queries.cursor(connection))
    pairs = [*queries.pairs(connection, "new"), *(queries.pairs(connection, "undone") if retry else [])]
    used = queries.pairs(connection, "used")
    drawn = seed_of(seed, "replay", night_id)
    proposal = propose(service.context, sorted(pairs, key=lambda p: str(p.id)), used, minimum=1, seed=drawn)
    of, proposal, reasons = _or_the_last_kept(connection, proposal)
    active = queries.active(connection).id
    told = {
        "dry_run": True,
        "checkpoint": active,
        "objective": service.settings.training.objective,
        "of": of,
        "pairs": len(proposal.new),
        "replay": len(proposal.replay),
        "conversations": work.counts(connection, "ready").get("extract", 0),
        "lessons": len(lessons),
        "targets": sorted({service.context.base_behaviour(str(signal.behaviour)) for signal, _ in lessons}),
        "reasons": reasons,
        "steps": [],
    }
    training = service.settings.training
    update = Update(
        id="",
        night_id=night_id,
        objective=training.objective,
        settings=asdict(trainer_settings(training)),
        seed=seed_of(seed, "train", night_id),
        parent_id=active,
        at=now(),
    )
    # In the order of their ids, as `train` reads them from the ledger.
    return told, update, sorted([*proposal.new, *proposal.replay], key=lambda pair: str(pair["id"]))


def _or_the_last_kept(connection: Connection, proposal: Proposal) -> tuple[str, Proposal, list[str]]:
    """The proposal; where it is empty, the pairs of the last kept update, and that this is so."""
    if proposal.new:
        return "new pairs", proposal, []
    kept = queries.last_trained(connection)
    if kept is None:
        return "nothing", proposal, ["there are no new pairs, and no kept update whose pairs could stand in"]
    rows = queries.pairs_of(connection, kept.id)
    again = Proposal(
        new=[row for row in rows if not row.replay],
        replay=[row for row in rows if row.replay],
    )
    return (
        f"update {kept.id}",
        again,
        [f"there are no new pairs: these are the ones of update {kept.id}"],
    )
