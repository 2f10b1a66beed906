"""The abilities of a model that is not the shipped one, measured on prompts that a program can check.

Invariant: the same weights, prompts, seed and round give the same outcomes. Knows no verdict.
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
"""Length of an answer, in tokens: every prompt can be answered in fewer."""
ROWS = 32
"""Prompts in one request: few enough to be answered within the client's time limit on a slow machine."""
TEMPERATURE = 0.5
"""Below the 1.0 of behaviours, at which a small model loses many prompts to chance; over 0, since each round
has to draw other answers."""


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """Measures abilities through the served model."""

    model: ModelClient

    async def measure(
        self, prompts: Sequence[AbilityPrompt], *, seed: int, round_: int, report: Progress
    ) -> str:
        """Return the outcome of each prompt, one character each: 1 passed, 0 failed."""
        outcomes = ""
        for start in range(0, len(prompts), ROWS):
            await report(start, len(prompts))
            part = prompts[start : start + ROWS]
            seeds = [seed_of(seed, "measure", NAME, round_, start + place) for place in range(len(part))]
            answers = await self._answers([list(prompt.messages) for prompt in part], seeds)
            outcomes += "".join("01"[judge(*pair).passed] for pair in zip(part, answers, strict=True))
        await report(len(prompts), len(prompts))
        return outcomes

    async def _answers(self, conversations: Sequence[Sequence[Message]], seeds: Sequence[int]) -> list[str]:
        """Return the answers; a template that refuses system prompts gets them in the user's message."""
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
