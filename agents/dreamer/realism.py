"""How likely the model finds a request: its mean log-probability as a user's first turn.

Real requests lie in a band. Below it is word salad, above it are repetitions. The forward passes are the
trainer's (`agents.model.internals`), so any server will do.

Invariant: a request that cannot be scored is not refused. This module does not know what is refused. The
model's mean hidden state, as a second measure of novelty, would come from the same interface; as yet it gives
only that of the last token, and at the cost of another pass, so novelty is measured by words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from agents.model.client import ModelClient
from agents.model.internals import LogProb
from agents.model.templates import opens_no_turn
from corpus.aliases import Message
from corpus.errors import ModelUnavailable


async def opening_of_request(model: ModelClient) -> list[int] | None:
    """Return the tokens that open a user's first turn; None if the model's chat template cannot open one."""
    try:
        (opened,) = await model.tokenize([[]], opens="user")
    except ModelUnavailable as fault:
        if not opens_no_turn(fault):
            raise
        return None
    return opened


class Scorer(Protocol):
    """The interface that computes log-probabilities; the trainer's client implements it."""

    async def logprobs(
        self, items: Sequence[tuple[Sequence[int], Sequence[int]]], *, exact: bool
    ) -> list[LogProb]:
        """Return the log-probability of each continuation (token ids), given its context (token ids)."""


@dataclass(frozen=True, kw_only=True)
class Realism:
    """The score of requests by one model."""

    model: ModelClient
    scorer: Scorer

    async def scores(self, texts: Sequence[str]) -> list[float] | None:
        """Return the mean log-probability of each request, nats per token; None if the model gives none.

        It gives none if its chat template cannot open a user's turn.
        """
        if not texts:
            return []
        talks: list[list[Message]] = [[{"role": "user", "content": text}] for text in texts]
        opened = await opening_of_request(self.model)
        if opened is None:
            return None
        whole = await self.model.tokenize(talks, add_generation_prompt=False)
        if any(tokens[: len(opened)] != opened or len(tokens) == len(opened) for tokens in whole):
            return None
        found = await self.scorer.logprobs([(opened, tokens[len(opened) :]) for tokens in whole], exact=False)
        return [one.total / one.tokens for one in found]
