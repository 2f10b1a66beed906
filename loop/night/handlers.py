"""Who does which kind of work: the agents and the stages, by the kinds that the flow queues."""

from collections.abc import Awaitable, Callable
from functools import partial

from agents.dreamer.dream import Dreamer
from agents.dreamer.temperature import FailureRate, observe
from agents.evaluator.judge import RuleJudge
from agents.evaluator.measure import Evaluator
from agents.extractor.handler import Extractor
from agents.model.client import ModelClient
from agents.pairs.attempts import Attempter
from agents.pairs.build import PairBuilder
from agents.trainer.client import TrainerClient
from agents.trainer.handler import TrainHandler
from corpus.aliases import Progress
from corpus.behaviour import Behaviour
from loop.config import Settings
from loop.night.locate import locate
from loop.night.record_activations import listen
from loop.night.stages import Stages
from store import queries
from store.ledger.db import Ledger
from store.queue.outcome import Outcome
from store.queue.work import Work

Handler = Callable[[Work, Progress], Awaitable[Outcome]]


def handlers(
    settings: Settings,
    ledger: Ledger,
    behaviours: dict[str, Behaviour],
    model: ModelClient,
    trainer: TrainerClient,
    evaluator: Evaluator,
    stages: Stages,
) -> dict[str, Handler]:
    """Who does which kind of work."""
    student = TrainHandler(
        ledger=ledger,
        model=model,
        trainer=trainer,
        behaviours=tuple(behaviours),
        readout=stages.monitor.directory,
    )
    return {
        "extract": Extractor(
            ledger=ledger, behaviours=behaviours, judging=RuleJudge(), settings=settings.extractor
        ).handle,
        "plan": stages.plan,
        "listen": partial(listen, stages),
        "locate": partial(locate, stages),
        "dream": Dreamer(
            ledger=ledger, model=model, behaviours=behaviours, situations=evaluator, settings=settings.dreams
        ).handle,
        "attempt": Attempter(
            ledger=ledger,
            model=model,
            behaviours=behaviours,
            judging=evaluator,
            observe=_observe,
            settings=settings.pairs,
        ).handle,
        "pair": PairBuilder(
            ledger=ledger, behaviours=behaviours, judging=evaluator, settings=settings.pairs
        ).handle,
        "propose": stages.propose,
        "measure": stages.measure,
        "read": stages.read,
        "train": student.handle,
        "merge": student.merge,
        "rule": stages.rule,
        "settle": stages.settle,
    }


def _observe(row: queries.Row, failed: int, passed: int) -> dict[str, float]:
    """The dreamer's temperature loop, as the attempter calls it."""
    rate = FailureRate(failed=row["failed"], passed=row["passed"], temperature=row["temperature"])
    after = observe(rate, failed=failed, passed=passed)
    return {"failed": after.failed, "passed": after.passed, "temperature": after.temperature}
