"""The largest length of the answers that a night asks for, which depends on whose model it is.

Invariant: the user's own number wins. The shipped model gets the limit that its figures were made with.
"""

from dataclasses import dataclass

from agents.model.client import ModelClient

SHIPPED = 48
"""For the shipped model: three times as long as its longest answers."""
OTHER = 192
"""For any other model: some 140 English words. Most answers to short requests end before."""


@dataclass(frozen=True, kw_only=True)
class AnswerLimit:
    """The rule for the largest length of an answer."""

    tokens: int | None = None
    """The user's own number; None if none is set."""
    shipped: bool = True
    """Whether the model is the one that ships with Nightschool."""

    @property
    def most(self) -> int:
        """The largest length in tokens, for a model with a long context."""
        return self.tokens or (SHIPPED if self.shipped else OTHER)

    async def of(self, model: ModelClient) -> int:
        """Return the largest length in tokens: of another model, at most a quarter of its context."""
        if self.tokens is not None or self.shipped:
            return self.most
        return max(1, min(self.most, (await model.served_model()).context // 4))
