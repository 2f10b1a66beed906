"""Attempts: the served model answers the dreams, and each answer is judged.

`agents.pairs.practice` decides which answers to ask for, and when to stop. Some are given with an instruction
in the prompt, which is removed before training.

Invariant: every attempt is stored with its seed, the checkpoint that made it, and a judgement with its
reason. Only the first answer to a dream, which has no instruction, changes the failure rate of a behaviour.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Protocol

from pydantic import ConfigDict, Field
from sqlalchemy import Connection

from agents.model import meter
from agents.model.answer_limit import AnswerLimit
from agents.model.client import Completion, ModelClient, Prompt
from agents.model.context import Talk, fit
from agents.pairs.practice import Ask, Caps, Practice
from agents.pairs.trial import rule_digest
from corpus.aliases import Message, Progress
from corpus.behaviour import Behaviour, sides
from corpus.prompts import instructed
from corpus.world.checks import Judgement
from store import graph, queries
from store.ledger.db import Ledger
from store.ledger.records import Attempt, Dream, Rate, identity
from store.queue.outcome import Change, Outcome
from store.queue.work import Work


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """How attempts and pairs are made."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    attempts: Annotated[int, Field(ge=1, le=1000)] = 4
    """Largest number of answers to one dream that the model gives without an instruction."""
    instructed: Annotated[int, Field(ge=0, le=1000)] = 2
    """Largest number of answers to one dream that the model gives with an instruction in the prompt, without
    those of the trial of its placement. With 0 no instruction is given."""
    temperature: Annotated[float, Field(ge=0.01, le=10)] = 1.0
    """Sampling temperature of these answers, and of the answers to held-out scenarios."""
    max_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Largest length of an answer, in tokens; if it is not set, 48 for the shipped model, and for another
    model 192 or a quarter of its context. An answer that is cut there is never a chosen one."""
    minimum: Annotated[int, Field(ge=1)] = 24
    """Smallest number of new pairs for an update. Fewer pairs wait for another night."""
    per_source: Annotated[int, Field(ge=0)] = 96
    """Largest number of new pairs in one update that come from the log of one source (a user)."""
    alike_per_source: Annotated[int, Field(ge=1)] = 4
    """Largest number of new pairs of one source in one update whose better answers, as its log has them, are
    nearly the same."""
    alike: Annotated[int, Field(ge=1)] = 16
    """The same for all sources together, whatever names they go by."""
    trust_in_logs: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Weight in training of a pair whose answers are from a log. A pair of attempts has weight 1."""


class Judge(Protocol):
    """The judge of answers; the evaluator provides it."""

    async def judge(self, behaviour: Behaviour, messages: Sequence[Message], answer: str) -> Judgement:
        """Return whether an answer to these messages passes, with the reason."""


Observe = Callable[[Rate, int, int], dict[str, float]]
"""Takes a behaviour's stored failure rate and the numbers of failed and passed attempts; returns the new
values of the failure rate's columns. The dreamer provides it (`agents.dreamer.temperature.observe`)."""


MARKUP_TOKENS = 32
"""Tokens that are left free for the template's markup around what is added to a dream."""
TokensLeft = Callable[[str], Awaitable[int | None]]
"""Takes a night's id, and returns the tokens that its dreams and attempts may still generate; None: any."""


@dataclass(frozen=True, kw_only=True)
class Attempter:
    """The handler of work of kind `attempt`. The subject of such work is a behaviour's name."""

    ledger: Ledger
    model: ModelClient
    behaviours: dict[str, Behaviour]
    judge: Judge
    observe: Observe
    settings: PairSettings
    limit: AnswerLimit = field(default_factory=AnswerLimit)
    tokens_left: TokensLeft | None = None
    why_spent: Callable[[str], Awaitable[str]] | None = None
    """Takes a night's id, and returns the reason for the user when its tokens are spent."""

    async def handle(self, item: Work, report: Progress) -> Outcome:
        """Have the model answer the night's dreams of a behaviour and its counter-behaviour.

        Returns:
            The outcome of the work: the judged attempts, the trial of the instruction's placement if there
            was one, and the changes of the failure rates.
        """
        practice, corrections, checkpoint_id = await self.ledger.read(self._prepare, item)
        asker = Asker(
            model=self.model, behaviours=self.behaviours, judge=self.judge, corrections=corrections,
            checkpoint_id=checkpoint_id, temperature=self.settings.temperature,
            max_tokens=await self.limit.of(self.model),
        )  # fmt: skip
        too_long = await asker.over_window([*practice.own, *practice.counter])
        practice.own = [dream for dream in practice.own if dream.id not in too_long]
        practice.counter = [dream for dream in practice.counter if dream.id not in too_long]
        left = None if self.tokens_left is None else await self.tokens_left(item.night_id)
        dreams, spent = len(practice.own) + len(practice.counter), False
        while (asks := practice.next()) and not spent:
            await report(sum(map(bool, practice.attempts.values())), dreams)
            if left is not None:
                affordable = max(0, left - meter.generated()) // asker.max_tokens
                spent, asks = affordable < len(asks), asks[:affordable]
            practice.add(await asker.answer(asks, practice.attempts))
        await report(dreams, dreams)
        outcome = await self._outcome(item, practice, spent)
        more = {"over_window": len(too_long)} if too_long else {}
        return replace(outcome, facts={**outcome.facts, **more})

    def _prepare(self, connection: Connection, item: Work) -> tuple[Practice, dict[str, str], str]:
        """Return the dreams to answer, the corrections in the logs that they grew from, and the checkpoint.

        The corrections are by dream.
        """
        night = {side.name: side for side in sides(item.subject, self.behaviours)}
        dreams = queries.dreams(connection, item.night_id, list(night))
        subject = self.behaviours[item.subject]
        behaviour = self.behaviours[subject.counter_of or subject.name]
        known = queries.last_trial(connection, behaviour.name, rule_digest(behaviour))
        practice = Practice(
            behaviour=behaviour,
            own=[dream for dream in dreams if dream.behaviour == behaviour.name],
            counter=[dream for dream in dreams if dream.behaviour != behaviour.name],
            caps=Caps(alone=self.settings.attempts, told=self.settings.instructed),
            known=known if known is not None and known.placement is not None else None,
        )
        corrections = {dream.id: _correction(connection, dream) for dream in dreams}
        return practice, corrections, queries.active(connection).id

    async def _outcome(self, item: Work, practice: Practice, spent: bool) -> Outcome:
        """Return the outcome of the work; `spent` says that the night's tokens were spent before its end."""
        why = await self.why_spent(item.night_id) if spent and self.why_spent is not None else ""
        rates = await self.ledger.read(queries.rates)
        model = await self.ledger.read(queries.model_digest)
        attempts = [attempt for answers in practice.attempts.values() for attempt in answers]
        tried = practice.trial
        trials = [] if tried is None else [replace(tried, night_id=item.night_id, model=model)]
        names = [side.name for side in sides(item.subject, self.behaviours) if side.name in rates]
        return Outcome(
            records=(*attempts, *trials),
            changes=tuple(self._observed(rates[name], practice) for name in names),
            facts={
                "attempts": len(attempts),
                "failed": sum(not attempt.passed for attempt in attempts),
                "placement": practice.placement,
                **({"spent": True, "reason": why} if spent else {}),
            },
        )

    def _observed(self, rate: Rate, practice: Practice) -> Change:
        """Return the change of the stored failure rate that follows from the first answers to the dreams.

        Later answers do not count: they were asked for because of what the first ones were.
        """
        dreams = [dream for dream in (*practice.own, *practice.counter) if dream.behaviour == rate.behaviour]
        outcomes = [practice.attempts[dream.id][0].passed for dream in dreams if practice.attempts[dream.id]]
        values = self.observe(rate, outcomes.count(False), outcomes.count(True))
        return Change(table="failure_rates", where={"behaviour": rate.behaviour}, values=values)


@dataclass(frozen=True, kw_only=True)
class Asker:
    """Has the model give answers, and judges them."""

    model: ModelClient
    behaviours: dict[str, Behaviour]
    judge: Judge
    corrections: Mapping[str, str]
    """By dream: what the user said in the log against the answer that it was corrected for; "" for none."""
    checkpoint_id: str
    temperature: float
    max_tokens: int

    async def over_window(self, dreams: Sequence[Dream]) -> set[str]:
        """Return the ids of the dreams that do not fit into the model's window with all that may be added.

        An instruction, a correction, an answer that is shown, and the new answer may be added. One such row
        would make the whole batch fail. A token has at least one byte, so most dreams need not be counted.
        """
        window = (await self.model.served_model()).context
        told = max((_bytes(self.behaviours[dream.behaviour].instruction) for dream in dreams), default=0)
        around = 2 * self.max_tokens + told + MARKUP_TOKENS
        limits = {dream.id: window - around - _bytes(self.corrections.get(dream.id, "")) for dream in dreams}
        doubtful = [d for d in dreams if _bytes(json.dumps([d.messages, d.tools])) > limits[d.id]]
        talks = [Talk(messages=dream.messages, tools=dream.tools) for dream in doubtful]
        found = await fit(self.model, talks, [limits[dream.id] for dream in doubtful])
        return {d.id for d, one in zip(doubtful, found, strict=True) if one.messages != list(d.messages)}

    async def answer(self, asks: Sequence[Ask], earlier: Mapping[str, Sequence[Attempt]]) -> list[Attempt]:
        """Return the model's answers as judged attempts.

        Args:
            asks: The answers to ask for.
            earlier: The answers so far, by the dream's id.
        """
        prompts = [
            Prompt(
                messages=self._messages(ask, earlier.get(ask.dream.id, ())),
                seed=ask.seed,
                temperature=self.temperature,
                max_tokens=self.max_tokens,
                tools=ask.dream.tools,
            )
            for ask in asks
        ]
        replies = await self.model.batch_chat(prompts)
        return [await self._judged(ask, reply) for ask, reply in zip(asks, replies, strict=True)]

    def _messages(self, ask: Ask, earlier: Sequence[Attempt]) -> list[Message]:
        """Return the conversation to answer."""
        dream = ask.dream
        if ask.told is None or ask.placement is None:
            return list(dream.messages)
        # What is corrected is an answer that fails; of a counter-behaviour, one that the rule would fail.
        alone = [a for a in earlier if a.told is None]
        failed = [a for a in alone if not a.passed] or alone
        correction = self.corrections.get(dream.id, "") if ask.told == dream.behaviour else ""
        instruction = self.behaviours[ask.told].instruction
        said = failed[0].text if failed else ""
        return instructed(dream.messages, instruction, ask.placement, answer=said, correction=correction)

    async def _judged(self, ask: Ask, reply: Completion) -> Attempt:
        """Return an answer as an attempt, with its judgement."""
        text, dream = reply.text.strip(), ask.dream
        judgement = await self.judge.judge(self.behaviours[dream.behaviour], dream.messages, text)
        told = ask.told is not None
        return Attempt(
            id="a" + identity(dream.id, told, ask.seed, self.checkpoint_id, text),
            dream_id=dream.id,
            text=text,
            instructed=told,
            temperature=self.temperature,
            seed=ask.seed,
            checkpoint_id=self.checkpoint_id,
            passed=judgement.passed,
            reason=judgement.reason,
            told=ask.told,
            placement=ask.placement,
            tokens=reply.tokens,
            finished=reply.finish_reason != "length",
        )


def _bytes(text: str) -> int:
    return len(text.encode())


def _correction(connection: Connection, dream: Dream) -> str:
    """Return what the user said against the answer in the log that a dream grew from; "" if it is not one."""
    nodes = [graph.get(connection, node) for node in dream.nodes]
    episodes = [node for node in nodes if node is not None and node.kind == "episode"]
    return str(episodes[0].body.get("correction") or "") if len(episodes) == 1 else ""
