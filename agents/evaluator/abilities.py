"""Measure the abilities of a user's own model on prompts whose answers a program can check.

Invariant: the same weights, prompts and seed give the same outcomes. This module does not know the
verdict that uses the outcomes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from agents.model.client import ModelClient, Prompt
from agents.model.templates import refuses, without_system
from corpus.abilities.prompts import NAME, AbilityPrompt, judge
from corpus.aliases import Message, Progress
from corpus.errors import ModelUnavailable
from store.ledger.records import seed_of

MAX_TOKENS = 64
"""Largest length of an answer, in tokens. Every prompt can be answered in fewer."""
ROWS = 32
"""Number of prompts in one request: a slow machine can answer that many within the client's time limit."""
TEMPERATURE = 0.0
"""The answers are the likeliest ones, so that no draw changes them. Sampled at 0.5, 11 to 15 % of the prompts
turned to failures after an update of SmolLM2, and nearly as many to passes."""


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """The measurement of the served model's abilities."""

    model: ModelClient

    async def measure(
        self, prompts: Sequence[AbilityPrompt], *, first: int, seed: int, report: Progress
    ) -> str:
        """Return one character for each prompt, in order: "1" if the model's answer passed, else "0".

        Args:
            prompts: The prompts to answer.
            first: Position of the first of these prompts among all prompts.
            seed: Seed of the measurement, from which the seed of each answer is derived.
            report: Called with the progress.
        """
        outcomes = ""
        for start in range(0, len(prompts), ROWS):
            await report(start, len(prompts))
            part = prompts[start : start + ROWS]
            seeds = [seed_of(seed, "measure", NAME, 0, first + start + place) for place in range(len(part))]
            answers = await self._answers([list(prompt.messages) for prompt in part], seeds)
            outcomes += "".join("01"[judge(*pair).passed] for pair in zip(part, answers, strict=True))
        await report(len(prompts), len(prompts))
        return outcomes

    async def _answers(self, conversations: Sequence[Sequence[Message]], seeds: Sequence[int]) -> list[str]:
        """Return the model's answer to each conversation, sampled with the seed at the same index.

        If the model's chat template refuses system messages, their text is moved into the user's message.
        """
        try:
            return await self._chat(conversations, seeds)
        except ModelUnavailable as fault:
            if not refuses(fault):
                raise
            return await self._chat([without_system(messages) for messages in conversations], seeds)

    async def _chat(self, conversations: Sequence[Sequence[Message]], seeds: Sequence[int]) -> list[str]:
        prompts = [
            Prompt(messages=messages, seed=seed, temperature=TEMPERATURE, max_tokens=MAX_TOKENS)
            for messages, seed in zip(conversations, seeds, strict=True)
        ]
        return [reply.text for reply in await self.model.batch_chat(prompts)]
