"""The ordinary text that a model's perplexity is measured on.

The shipped model knows only its own small world, so its text is held-out conversations of that world. The
text of every other model is a fixed selection of ordinary dialogue.

Invariant: the same model and number of exchanges give the same tokens, and only the tokens of answers are
scored. This module does not score: the monitor does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from agents.model.client import ModelClient
from agents.model.describe import is_shipped
from agents.model.templates import refuses, without_system
from corpus.aliases import Message
from corpus.errors import ModelUnavailable
from corpus.ordinary.dialogue import digest, load, select
from corpus.world import ordinary

WORLD_EXCHANGES = 120
"""Number of held-out exchanges of the world."""


@dataclass(frozen=True, kw_only=True)
class OrdinaryText:
    """Conversations, each with an answer that is scored."""

    name: str
    """Name of the text in the ledger; "" for the conversations of the shipped model's world."""
    exchanges: tuple[tuple[tuple[Message, ...], str], ...]


def ordinary_text(model_digest: str, count: int) -> OrdinaryText:
    """Return the ordinary text of a model; `count`: number of exchanges, except for the shipped model."""
    if is_shipped(model_digest):
        talk = ordinary.held_out(WORLD_EXCHANGES)
        world = tuple((({"role": "user", "content": remark},), reply) for remark, reply in talk)
        return OrdinaryText(name="", exchanges=world)
    chosen = select(load(), count)
    exchanges = tuple((exchange.context, exchange.answer) for exchange in chosen)
    return OrdinaryText(name=f"ordinary:{digest(chosen)[:16]}", exchanges=exchanges)


async def tokenize(model: ModelClient, text: OrdinaryText) -> list[tuple[list[int], list[int]]]:
    """Return, for each exchange, the tokens before the answer and the tokens of the answer.

    The model's chat template is used. If the template refuses a system prompt, the system prompt is put at
    the beginning of the user's first message.
    """
    try:
        return await _tokenize(model, text.exchanges)
    except ModelUnavailable as fault:
        if not refuses(fault):
            raise
        folded = [(without_system(context), answer) for context, answer in text.exchanges]
        return await _tokenize(model, folded)


async def _tokenize(
    model: ModelClient, exchanges: Sequence[tuple[Sequence[Message], str]]
) -> list[tuple[list[int], list[int]]]:
    """Return each exchange's tokens in two parts: those shared with the answer's prompt, and the rest."""
    contexts = [list(context) for context, _ in exchanges]
    answered = [[*context, {"role": "assistant", "content": answer}] for context, answer in exchanges]
    prompts = await model.tokenize(contexts, add_generation_prompt=True)
    whole = await model.tokenize(answered, add_generation_prompt=False)
    items = []
    for prompt, row in zip(prompts, whole, strict=True):
        parts = (place for place, pair in enumerate(zip(prompt, row, strict=False)) if pair[0] != pair[1])
        start = next(parts, len(prompt))
        items.append((row[:start], row[start:]))
    return items
