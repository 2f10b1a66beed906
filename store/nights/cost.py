"""The cost of a night in tokens, by what they were for.

Invariant: this module only reads; every figure and sentence is what the events of the night's work say.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, select

from store import queries
from store.ledger import schema


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


def scenario_tokens(connection: Connection, usual: float) -> float:
    """Return the mean number of tokens of an answer to a held-out scenario; `usual` if none was measured."""
    e = schema.events.c
    bodies = connection.execute(select(e.body).where(e.kind == "measure")).scalars()
    costs = [(body["tokens"], body["trials"]) for body in bodies if body.get("tokens") and body.get("trials")]
    return sum(tokens for tokens, _ in costs) / sum(trials for _, trials in costs) if costs else usual


def remarks(connection: Connection, night_id: str) -> list[str]:
    """Return the reasons why a night has left out pairs, as the work that left them out says them."""
    e = schema.events.c
    work = e.kind.in_(("dream", "attempt", "pair")) & (e.subject == night_id)
    bodies = connection.execute(select(e.body).where(work).order_by(e.seq)).scalars()
    return list(dict.fromkeys(body["reason"] for body in bodies if body.get("reason")))


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
