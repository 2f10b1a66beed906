"""The evaluator: it judges attempts, and measures the served model's behaviours on held-out scenarios.

Invariant: the same weights, seed and scenarios give the same outcomes, because the sampling seeds and the
contents of the batches are fixed. So nothing needs to be measured twice.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agents.evaluator import judge as judging
from agents.evaluator.scenarios import extent, held_out, sampling_seeds
from agents.model.answer_limit import AnswerLimit
from agents.model.client import ModelClient, Prompt
from agents.model.requests import BATCH_ROWS
from corpus.aliases import Message, Progress
from corpus.behaviour import Behaviour
from corpus.text import word_set
from corpus.world.checks import Judgement


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Judges attempts, and measures behaviours through the served model."""

    model: ModelClient
    limit: AnswerLimit = field(default_factory=AnswerLimit)
    """The rule for the largest length of a measured answer."""
    temperature: float = 1.0
    """Sampling temperature of a measured answer."""

    def applies(self, behaviour: Behaviour, messages: Sequence[Message]) -> bool:
        """Return whether the conversation tests the behaviour."""
        return judging.applies(behaviour, messages)

    def is_reserved(self, messages: Sequence[Message]) -> bool:
        """Return whether the conversation is reserved for measurements."""
        return judging.is_reserved(messages)

    def held_out(self, behaviour: Behaviour) -> list[str]:
        """Return the behaviour's declared requests that are reserved for measurements."""
        return list(behaviour.held_out)

    async def judge(self, behaviour: Behaviour, messages: Sequence[Message], answer: str) -> Judgement:
        """Return whether an answer passes the behaviour's check, pattern or rubric, with the reason."""
        if behaviour.judge.kind == "rubric" and answer.strip():
            return await judging.judge_by_rubric(behaviour, messages, answer, self._ask)
        return judging.judge(behaviour, messages, answer)

    async def _ask(self, messages: list[Message]) -> str:
        reply = await self.model.chat(
            messages, temperature=0.0, max_tokens=200, json_schema=judging.RUBRIC_SCHEMA
        )
        return reply.text

    async def measure(
        self,
        behaviour: Behaviour,
        *,
        scenarios: range,
        most: int,
        seed: int,
        report: Progress,
        steer: Mapping[str, float] | None = None,
        words: Counter[str] | None = None,
    ) -> str:
        """Return one character for each answer to these held-out scenarios: "1" if it passed, else "0".

        The answers to one scenario stand together.

        Args:
            behaviour: The behaviour to measure.
            scenarios: Positions of the scenarios among all scenarios of the behaviour.
            most: Largest number of answers of a whole measurement.
            seed: Seed of the measurement, from which the seed of each answer is derived.
            report: Called with the progress.
            steer: Concepts to steer the answers by, each with its strength; None for no steering.
            words: A counter that gets, for each word, the number of answers that have it; None to count none.
        """
        known, samples = held_out(behaviour, most), extent(behaviour, most).samples
        draws = [sampling_seeds(behaviour, len(known), seed=seed, attempt=each) for each in range(samples)]
        asked = [(known[place], draw[place]) for place in scenarios for draw in draws]
        outcomes, length = "", await self.limit.of(self.model)
        for start in range(0, len(asked), BATCH_ROWS):
            await report(start, len(asked))
            part = asked[start : start + BATCH_ROWS]
            replies = await self.model.batch_chat(
                [
                    Prompt(messages=messages, seed=drawn, temperature=self.temperature, max_tokens=length)
                    for messages, drawn in part
                ],
                steer=steer,
            )
            for (messages, _), reply in zip(part, replies, strict=True):
                judgement = await self.judge(behaviour, messages, reply.text)
                outcomes += "1" if judgement.passed else "0"
                if words is not None:
                    words.update(word_set(reply.text))
        await report(len(asked), len(asked))
        return outcomes
