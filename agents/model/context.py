"""The `[context]` table of a home's configuration, and conversations cut to a number of tokens.

The extractor stores the context of a lesson cut by characters, so that an episode stays small; only the
server knows the model's tokenizer. So dreams and pairs, which are made at night with the server at hand, cut
the context again, by the tokens that the model's own chat template makes of it.

Invariant: a conversation is cut at a user's turn only, its system prompt and its tools stay, and nothing of
it is shortened. A conversation that cannot be cut so is left out with a reason, and never an exception.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import ConfigDict, Field

from agents.model.client import ModelClient
from agents.model.templates import refuses
from corpus.aliases import Json, Message
from corpus.context import cut_at, cuts, opening
from corpus.errors import ModelUnavailable

CHARACTERS_PER_TOKEN = 8
"""Characters of a stored context for each token of `context.max_tokens`. English has 4 to 5 in a token, so
the cut by tokens decides."""


@dataclass(frozen=True, kw_only=True)
class ContextSettings:
    """How much of a conversation is kept before the request that a lesson, a dream or a pair is about."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    max_tokens: Annotated[int, Field(ge=16, le=1_000_000)] = 2048
    """Most tokens of a context: the system prompt, the definitions of tools, the earlier turns and the
    request. Earlier turns are cut off at a user's turn until the rest fits. It is never more than the model
    takes."""

    @property
    def characters(self) -> int:
        """Most characters of a context that an episode stores."""
        return CHARACTERS_PER_TOKEN * self.max_tokens


@dataclass(frozen=True, kw_only=True)
class Talk:
    """A conversation for the chat template."""

    messages: Sequence[Message]
    tools: Sequence[Json] = ()
    """Definitions of the tools, in OpenAI's form."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A conversation that was cut to a number of tokens, or the reason why that is not possible."""

    messages: list[Message]
    """[] if there is a reason."""
    start: int = 0
    """The place of the first message that stays after the system prompt, in the whole conversation."""
    tokens: int = 0
    """Number of tokens, with the opening of the answer."""
    reason: str = ""


async def room(model: ModelClient, settings: ContextSettings, *, others: int) -> int:
    """Return the most tokens that a context may have.

    Args:
        model: The served model, whose window is the other limit.
        settings: The settings.
        others: Number of tokens of what follows the context: a fresh request, an instruction, the answer.
    """
    window = (await model.served_model()).context
    return min(settings.max_tokens, window - others)


async def fit(model: ModelClient, talks: Sequence[Talk], limits: Sequence[int]) -> list[Fit]:
    """Return each conversation cut to its limit of tokens, with as many of its turns as fit.

    Args:
        model: The served model, whose chat template makes the tokens.
        talks: The conversations.
        limits: Most tokens of each conversation, with the opening of the answer.
    """
    results: list[Fit | None] = [None] * len(talks)
    # Cuts of each conversation that may be the first that fits; a later cut has fewer tokens.
    open_ = {place: cuts(talk.messages) or [opening(talk.messages)] for place, talk in enumerate(talks)}
    first_look = True
    while open_:
        tried = {place: left[0] if first_look else left[len(left) // 2] for place, left in open_.items()}
        cut = [Talk(messages=cut_at(talks[p].messages, at), tools=talks[p].tools) for p, at in tried.items()]
        for (place, at), talk, counted in zip(tried.items(), cut, await _counts(model, cut), strict=True):
            left, limit = open_.pop(place), limits[place]
            if isinstance(counted, str):
                results[place] = Fit(messages=[], reason=counted)
                continue
            known = results[place]
            if counted <= limit:
                results[place] = Fit(messages=list(talk.messages), start=at, tokens=counted)
                left = left[: left.index(at)]
            else:
                left = left[left.index(at) + 1 :]
                if known is None or known.reason:
                    results[place] = Fit(messages=[], reason=_too_long(counted, limit))
            if left:
                open_[place] = left
        first_look = False
    return [result for result in results if result is not None]


async def _counts(model: ModelClient, talks: Sequence[Talk]) -> list[int | str]:
    """Return the number of tokens of each conversation, or why the chat template refuses it."""
    try:
        rows = await model.tokenize(
            [talk.messages for talk in talks],
            tools=[talk.tools for talk in talks],
            add_generation_prompt=True,
        )
    except ModelUnavailable as fault:
        if not refuses(fault):
            raise
        if len(talks) == 1:
            return [str(fault)]
        half = len(talks) // 2
        return [*await _counts(model, talks[:half]), *await _counts(model, talks[half:])]
    return [len(row) for row in rows]


def _too_long(tokens: int, limit: int) -> str:
    return f"its system prompt, tools and last request have {tokens} tokens, over the {limit} of a context"
