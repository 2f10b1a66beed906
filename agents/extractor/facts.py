"""Facts that a user asks to have remembered, in the user's own words.

Invariant: pure; a fact comes from a user's turn, never from an assistant's, and it belongs to its source: a
fact about one user is none about another. A text that addresses the machinery gives no fact.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agents.extractor.harm import destructive, instructs
from corpus.conversation import Turn

LONGEST = 200
"""Characters of the longest fact; a longer text is a document."""

_ASKED = re.compile(
    r"(?:^|[.!?;,]\s+|\b(?:and|also|please|ok|so)\s+)(?:please )?"
    r"(?:remember that|remember:|note that|note:|for the record[,:]?|keep in mind(?: that)?[,:]?|"
    r"don'?t forget that|just so you know[,:]?|for your information[,:]?|fyi[,:]?)\s+"
    r"(?P<fact>[^.!?\n]{4,200})",
    re.IGNORECASE,
)
_OWN = re.compile(
    r"\bmy (?P<subject>name|boss|email|team|address|birthday|job|phone|office|favou?rite \w+) is "
    r"(?:(?! and | but )[^.,;!?\n]){2,60}",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One fact to remember."""

    position: int
    text: str
    subject: str = ""
    """The subject, if it has one value at a time ("name"): a second value contradicts the first."""


def facts(turns: Sequence[Turn]) -> tuple[Fact, ...]:
    """Return the facts in the user's turns, in order, each once."""
    by_text = dict[str, Fact]()
    for position, turn in enumerate(turns):
        if turn.role != "user" or instructs(turn.text) or destructive(turn.text):
            continue
        for fact in _facts_in(position, turn.text[:2000]):
            by_text.setdefault(fact.text, fact)
    return tuple(by_text.values())


def _facts_in(position: int, text: str) -> list[Fact]:
    """Return the facts that one turn asks to remember, then those about the user."""
    asked = [Fact(position=position, text=_tidy(match["fact"])) for match in _ASKED.finditer(text)]
    own = [
        Fact(position=position, text=_tidy(match.group()), subject=match["subject"].lower())
        for match in _OWN.finditer(text)
        if not any(_tidy(match.group()) in fact.text for fact in asked)
    ]
    return [fact for fact in (*asked, *own) if fact.text]


def _tidy(text: str) -> str:
    return " ".join(text.lower().split())[:LONGEST].strip(" ,;:")
