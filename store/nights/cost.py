"""The cost of a night in tokens, by what they were for.

Invariant: this module only reads; every figure is the sum of what the events of the night's work say.
"""

from dataclasses import dataclass

from sqlalchemy import Connection

from store import queries


@dataclass(frozen=True, kw_only=True)
class NightTokens:
    """The tokens that a night has cost, by what they were for.

    The first three are generated tokens. A judge's own answers count with the answers that it judged.
    """

    dreams: int
    attempts: int
    verdict: int
    """Answers to held-out scenarios, before and after the update, in all rounds."""
    readings: int
    """Tokens of texts that the model was run over for its inner states and its perplexity; none is
    generated."""

    @property
    def generated(self) -> int:
        """The number of generated tokens."""
        return self.dreams + self.attempts + self.verdict


def tokens_of(connection: Connection, night_id: str) -> NightTokens:
    """Return the tokens that a night has cost so far."""
    spent = queries.tokens(connection, night_id)
    generated, read = ({kind: both[side] for kind, both in spent.items()} for side in (0, 1))
    return NightTokens(
        dreams=generated.get("dream", 0),
        attempts=generated.get("attempt", 0) + generated.get("pair", 0),
        verdict=generated.get("measure", 0),
        readings=read.get("listen", 0) + read.get("read", 0),
    )
