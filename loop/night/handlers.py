"""The handlers of all kinds of work that `loop.night.flow.KINDS` lists."""

from collections.abc import Awaitable, Callable
from functools import partial

from agents.dreamer.dream import Dreamer
from agents.dreamer.temperature import FailureRate, observe
from agents.evaluator.judge import RuleJudge
from agents.extractor.handler import Extractor
from agents.pairs.attempts import Attempter
from agents.pairs.build import PairBuilder
from agents.trainer.handler import TrainHandler
from corpus.aliases import Progress
from loop.night.budget import reason, tokens_left
from loop.night.context import NightContext
from loop.night.decide import Decide
from loop.night.finalize import Finalize
from loop.night.flow import KINDS
from loop.night.locate import Locate
from loop.night.measure import Measure
from loop.night.plan import Plan
from loop.night.propose import Propose
from loop.night.readings import TakeReadings
from loop.night.record_activations import RecordActivations
from store.ledger.records import Rate
from store.queue.outcome import Outcome
from store.queue.work import Work

INSTRUCTION_TOKENS = 80
"""Tokens that are left free after a dream for an instruction, beside two answers: twice the longest that is
shipped."""
Handler = Callable[[Work, Progress], Awaitable[Outcome]]
"""A method that does a piece of work, reports its progress, and returns the outcome."""


def handlers(context: NightContext) -> dict[str, Handler]:
    """Return the handler of each kind of work, by kind."""
    ledger, behaviours, settings = context.ledger, context.behaviours, context.settings
    instances = (
        Extractor(
            ledger=ledger,
            behaviours=behaviours,
            judging=RuleJudge(),
            settings=settings.extractor,
            context=settings.context,
        ),
        Plan(context),
        RecordActivations(context),
        Dreamer(
            ledger=ledger,
            model=context.model,
            behaviours=behaviours,
            situations=context.evaluator,
            settings=settings.dreams,
            context=settings.context,
            others=2 * context.evaluator.limit.most + INSTRUCTION_TOKENS,  # a bad answer may be shown, too
            tokens_left=partial(tokens_left, context),
            is_recipe=context.is_shipped,
            scorer=context.trainer,
        ),
        Attempter(
            ledger=ledger,
            model=context.model,
            behaviours=behaviours,
            judge=context.evaluator,
            observe=_observe,
            settings=settings.pairs,
            limit=context.evaluator.limit,
            tokens_left=partial(tokens_left, context),
            why_spent=partial(reason, context),
        ),
        PairBuilder(
            ledger=ledger,
            behaviours=behaviours,
            judge=context.evaluator,
            settings=settings.pairs,
            model=context.model,
            context=settings.context,
        ),
        Propose(context),
        Measure(context),
        TakeReadings(context),
        train_handler(context),
        Locate(context),
        Decide(context),
        Finalize(context),
    )
    by_class = {f"{type(one).__module__}.{type(one).__qualname__}": one for one in instances}
    return {name: getattr(by_class[kind.handler], kind.method) for name, kind in KINDS.items()}


def train_handler(context: NightContext) -> TrainHandler:
    """Return the handler that trains and merges updates, and computes the dry run of an update."""
    return TrainHandler(
        ledger=context.ledger,
        model=context.model,
        trainer=context.trainer,
        behaviours=lambda: context.measured,
        readout=context.monitor.directory,
    )


def _observe(row: Rate, failed: int, passed: int) -> dict[str, float]:
    """Return a behaviour's failure rate and temperature after more attempts, as columns of the ledger.

    This connects the attempter with the dreamer's temperature loop, because agents do not import each other.

    Args:
        row: The behaviour's failure rate and temperature before.
        failed: Number of new attempts that failed.
        passed: Number of new attempts that passed.
    """
    rate = FailureRate(failed=row.failed, passed=row.passed, temperature=row.temperature)
    after = observe(rate, failed=failed, passed=passed)
    return {"failed": after.failed, "passed": after.passed, "temperature": after.temperature}
