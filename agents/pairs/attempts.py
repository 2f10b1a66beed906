"""Attempts: the served model's own answers to the dreams, judged.

Each dream gets answers as the model is (on-policy) and a few made with the behaviour's instruction, which is
stripped again before training. Invariant: every attempt is stored with its seed, the weights that made it
and a judgement with its reason. The temperature loop learns from the on-policy ones only.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import Field

from agents.model.client import ModelClient, Prompt
from agents.model.requests import BATCH_ROWS
from corpus.aliases import Message
from corpus.behaviour import Behaviour, sides
from corpus.prompts import instructed
from corpus.world.checks import Judgement
from store import queries
from store.ledger.db import Ledger
from store.ledger.records import Attempt, identity, seed_of
from store.queue.outcome import Change, Outcome
from store.queue.work import Work


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """How attempts and pairs are made."""

    __pydantic_config__ = {"extra": "forbid"}

    attempts: Annotated[int, Field(ge=1, le=1000)] = 6
    """Answers of the model as it is, to each dream."""
    attempts_of_counters: Annotated[int, Field(ge=1, le=1000)] = 16
    """The same for a dream of a counter-behaviour: only a failed attempt makes a pair, and it rarely
    fails."""
    instructed: Annotated[int, Field(ge=0, le=1000)] = 2
    """Answers that are given with the behaviour's instruction, to each dream."""
    temperature: Annotated[float, Field(ge=0.01, le=10)] = 1.0
    """Sampling temperature of the answers."""
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 48
    """Length of an answer, in tokens."""
    minimum: Annotated[int, Field(ge=1)] = 24
    """New pairs that an update needs; fewer wait for another night."""
    per_source: Annotated[int, Field(ge=0)] = 96
    """Largest number of new pairs in one update that may come from one source's log."""
    trust_in_logs: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Weight of a pair whose answers stand in a log; pairs of judged attempts weigh 1."""


class Judge(Protocol):
    """What is needed of the evaluator."""

    async def judge(self, behaviour: Behaviour, messages: Sequence[Message], answer: str) -> Judgement:
        """Judge one answer."""


Observe = Callable[[queries.Row, int, int], dict[str, float]]
"""(failure rate's row, failed, passed) -> its new values: the dreamer's temperature loop."""


@dataclass(frozen=True, kw_only=True)
class AttemptRequest:
    """One answer to be asked for."""

    dream: queries.Row
    messages: list[Message]
    instructed: bool
    seed: int


@dataclass(frozen=True, kw_only=True)
class Attempter:
    """Handles work of kind `attempt`; the subject is a behaviour's name."""

    ledger: Ledger
    model: ModelClient
    behaviours: dict[str, Behaviour]
    judging: Judge
    observe: Observe
    settings: PairSettings

    async def handle(self, item: Work, report: Callable[[int, int], Awaitable[None]]) -> Outcome:
        """Answer the night's dreams of a behaviour and its counter-behaviour."""
        names = [side.name for side in sides(item.subject, self.behaviours)]
        dreams = await self.ledger.read(queries.dreams, item.night_id, names)
        checkpoint = await self.ledger.read(queries.active)
        rates = await self.ledger.read(queries.rates)
        wanted = [answer for dream in dreams for answer in self._wanted(dream)]
        attempts: list[Attempt] = []
        for start in range(0, len(wanted), BATCH_ROWS):
            await report(start, len(wanted))
            part = wanted[start : start + BATCH_ROWS]
            attempts += await self._answer(part, checkpoint["id"])
        await report(len(wanted), len(wanted))
        changes = [self._observed(name, rates[name], dreams, attempts) for name in names if name in rates]
        failed = sum(not attempt.passed for attempt in attempts)
        return Outcome(
            records=tuple(attempts),
            changes=tuple(changes),
            facts={"attempts": len(attempts), "failed": failed},
        )

    def _wanted(self, dream: queries.Row) -> list[AttemptRequest]:
        behaviour = self.behaviours[dream["behaviour"]]
        told = instructed(dream["messages"], behaviour.instruction)
        often = self.settings.attempts_of_counters if behaviour.counter_of else self.settings.attempts
        plain = [self._ask(dream, dream["messages"], False, k) for k in range(often)]
        return plain + [self._ask(dream, told, True, k) for k in range(self.settings.instructed)]

    def _ask(self, dream: queries.Row, messages: list[Message], told: bool, index: int) -> AttemptRequest:
        seed = seed_of("attempt", dream["id"], told, index)
        return AttemptRequest(dream=dream, messages=messages, instructed=told, seed=seed)

    async def _answer(self, wanted: list[AttemptRequest], checkpoint_id: str) -> list[Attempt]:
        replies = await self.model.batch_chat(
            [
                Prompt(
                    messages=answer.messages,
                    seed=answer.seed,
                    temperature=self.settings.temperature,
                    max_tokens=self.settings.max_tokens,
                )
                for answer in wanted
            ]
        )
        attempts = []
        for answer, reply in zip(wanted, replies, strict=True):
            text, dream = reply.text.strip(), answer.dream
            behaviour = self.behaviours[dream["behaviour"]]
            judgement = await self.judging.judge(behaviour, dream["messages"], text)
            attempts.append(
                Attempt(
                    id="a" + identity(dream["id"], answer.instructed, answer.seed, checkpoint_id, text),
                    dream_id=dream["id"],
                    text=text,
                    instructed=answer.instructed,
                    temperature=self.settings.temperature,
                    seed=answer.seed,
                    checkpoint_id=checkpoint_id,
                    passed=judgement.passed,
                    reason=judgement.reason,
                )
            )
        return attempts

    def _observed(
        self, name: str, rate: queries.Row, dreams: list[queries.Row], attempts: list[Attempt]
    ) -> Change:
        """The failure rate of a behaviour after these attempts."""
        mine = {dream["id"] for dream in dreams if dream["behaviour"] == name}
        outcomes = [a.passed for a in attempts if a.dream_id in mine and not a.instructed]
        values = self.observe(rate, outcomes.count(False), outcomes.count(True))
        return Change(table="failure_rates", where={"behaviour": name}, values=values)
