"""Attempts: the served model answers the dreams, and each answer is judged.

The model answers each dream several times as it is, and a few times with the behaviour's instruction in the
prompt. The instruction is removed before training.

Invariant: every attempt is stored with its seed, the checkpoint that made it, and a judgement with its
reason. Only attempts without the instruction change the failure rate of a behaviour.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import ConfigDict, Field

from agents.model.client import ModelClient, Prompt
from agents.model.requests import BATCH_ROWS
from corpus.aliases import Message, Progress
from corpus.behaviour import Behaviour, sides
from corpus.prompts import instructed
from corpus.world.checks import Judgement
from store import queries
from store.ledger.db import Ledger
from store.ledger.records import Attempt, Dream, Rate, identity, seed_of
from store.queue.outcome import Change, Outcome
from store.queue.work import Work


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """How attempts and pairs are made."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    attempts: Annotated[int, Field(ge=1, le=1000)] = 6
    """Number of answers to each dream that the model gives without an instruction."""
    attempts_of_counters: Annotated[int, Field(ge=1, le=1000)] = 16
    """Number of such answers to each dream of a counter-behaviour. The default is higher because a pair needs
    a failed attempt, and a counter-behaviour rarely fails."""
    instructed: Annotated[int, Field(ge=0, le=1000)] = 2
    """Number of answers to each dream that the model gives with the behaviour's instruction in the prompt."""
    temperature: Annotated[float, Field(ge=0.01, le=10)] = 1.0
    """Sampling temperature of these answers, and of the answers to held-out scenarios."""
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 48
    """Largest length of an answer, in tokens."""
    minimum: Annotated[int, Field(ge=1)] = 24
    """Smallest number of new pairs for an update. Fewer pairs wait for another night."""
    per_source: Annotated[int, Field(ge=0)] = 96
    """Largest number of new pairs in one update that come from the log of one source (a user)."""
    trust_in_logs: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Weight in training of a pair whose answers are from a log. A pair of attempts has weight 1."""


class Judge(Protocol):
    """The judge of answers; the evaluator provides it."""

    async def judge(self, behaviour: Behaviour, messages: Sequence[Message], answer: str) -> Judgement:
        """Return whether an answer to these messages passes, with the reason."""


Observe = Callable[[Rate, int, int], dict[str, float]]
"""Takes a behaviour's stored failure rate and the numbers of failed and passed attempts; returns the new
values of the failure rate's columns. The dreamer provides it (`agents.dreamer.temperature.observe`)."""


@dataclass(frozen=True, kw_only=True)
class AttemptRequest:
    """One answer to ask the model for."""

    dream: Dream
    messages: list[Message]
    instructed: bool
    seed: int


@dataclass(frozen=True, kw_only=True)
class Attempter:
    """The handler of work of kind `attempt`. The subject of such work is a behaviour's name."""

    ledger: Ledger
    model: ModelClient
    behaviours: dict[str, Behaviour]
    judge: Judge
    observe: Observe
    settings: PairSettings

    async def handle(self, item: Work, report: Progress) -> Outcome:
        """Have the model answer the night's dreams of a behaviour and its counter-behaviour.

        Returns:
            The outcome of the work: the judged attempts, and the changes of the failure rates.
        """
        names = [side.name for side in sides(item.subject, self.behaviours)]
        dreams = await self.ledger.read(queries.dreams, item.night_id, names)
        checkpoint = await self.ledger.read(queries.active)
        rates = await self.ledger.read(queries.rates)
        requests = [request for dream in dreams for request in self._requests(dream)]
        attempts: list[Attempt] = []
        for start in range(0, len(requests), BATCH_ROWS):
            await report(start, len(requests))
            attempts += await self._answer(requests[start : start + BATCH_ROWS], checkpoint.id)
        await report(len(requests), len(requests))
        changes = [self._observed(rates[name], dreams, attempts) for name in names if name in rates]
        failed = sum(not attempt.passed for attempt in attempts)
        return Outcome(
            records=tuple(attempts),
            changes=tuple(changes),
            facts={"attempts": len(attempts), "failed": failed},
        )

    def _requests(self, dream: Dream) -> list[AttemptRequest]:
        """Return the requests for one dream: first those without the instruction, then those with it."""
        behaviour = self.behaviours[dream.behaviour]
        instructed_messages = instructed(dream.messages, behaviour.instruction)
        count = self.settings.attempts_of_counters if behaviour.counter_of else self.settings.attempts
        return [
            *(_request(dream, dream.messages, False, index) for index in range(count)),
            *(_request(dream, instructed_messages, True, index) for index in range(self.settings.instructed)),
        ]

    async def _answer(self, requests: list[AttemptRequest], checkpoint_id: str) -> list[Attempt]:
        """Ask the model for these answers, judge them, and return them as attempts of this checkpoint."""
        replies = await self.model.batch_chat(
            [
                Prompt(
                    messages=request.messages,
                    seed=request.seed,
                    temperature=self.settings.temperature,
                    max_tokens=self.settings.max_tokens,
                    tools=request.dream.tools,
                )
                for request in requests
            ]
        )
        attempts = []
        for request, reply in zip(requests, replies, strict=True):
            text, dream = reply.text.strip(), request.dream
            judgement = await self.judge.judge(self.behaviours[dream.behaviour], dream.messages, text)
            attempts.append(
                Attempt(
                    id="a" + identity(dream.id, request.instructed, request.seed, checkpoint_id, text),
                    dream_id=dream.id,
                    text=text,
                    instructed=request.instructed,
                    temperature=self.settings.temperature,
                    seed=request.seed,
                    checkpoint_id=checkpoint_id,
                    passed=judgement.passed,
                    reason=judgement.reason,
                )
            )
        return attempts

    def _observed(self, rate: Rate, dreams: list[Dream], attempts: list[Attempt]) -> Change:
        """Return the change of the stored failure rate that follows from the behaviour's attempts."""
        own_dreams = {dream.id for dream in dreams if dream.behaviour == rate.behaviour}
        outcomes = [a.passed for a in attempts if a.dream_id in own_dreams and not a.instructed]
        values = self.observe(rate, outcomes.count(False), outcomes.count(True))
        return Change(table="failure_rates", where={"behaviour": rate.behaviour}, values=values)


def _request(dream: Dream, messages: list[Message], with_rule: bool, index: int) -> AttemptRequest:
    """Return one request; its seed depends on the dream, on `with_rule` and on the index.

    with_rule: whether the messages contain the behaviour's instruction.
    """
    seed = seed_of("attempt", dream.id, with_rule, index)
    return AttemptRequest(dream=dream, messages=messages, instructed=with_rule, seed=seed)
