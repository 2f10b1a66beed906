"""Facts that a user asks to have remembered, in his own words.

Invariant: pure; a fact is what a user said, never what an assistant said, and it belongs to its source: what
one user says of himself is no fact about another. A text that speaks to the machinery is no fact.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agents.extractor.harm import destructive, instructs
from corpus.conversation import Turn

LONGEST = 200
"""Characters; what is longer is a document and no fact."""

_TOLD = re.compile(
    r"(?:^|[.!?;,]\s+|\b(?:and|also|please|ok|so)\s+)(?:please )?"
    r"(?:remember that|remember:|note that|note:|for the record[,:]?|keep in mind(?: that)?[,:]?|"
    r"don'?t forget that|just so you know[,:]?|for your information[,:]?|fyi[,:]?)\s+(?P<fact>[^.!?\n]{4,200})",
    re.IGNORECASE,
)
_OWN = re.compile(
    r"\bmy (?P<subject>name|boss|email|team|address|birthday|job|phone|office|favou?rite \w+) is "
    r"(?:(?! and | but )[^.,;!?\n]){2,60}",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Fact:
    """Something to remember."""

    position: int
    text: str
    subject: str = ""
    """What it is about where it has one value at a time ("name"): a second value contradicts the first."""


def facts(turns: Sequence[Turn]) -> tuple[Fact, ...]:
    """The facts in the user's turns, in order, each once."""
    found = dict[str, Fact]()
    for position, turn in enumerate(turns):
        if turn.role != "user" or instructs(turn.text) or destructive(turn.text):
            continue
        for fact in _told(position, turn.text[:2000]):
            found.setdefault(fact.text, fact)
    return tuple(found.values())


def _told(position: int, text: str) -> list[Fact]:
    told = [Fact(position=position, text=_tidy(match["fact"])) for match in _TOLD.finditer(text)]
    own = [
        Fact(position=position, text=_tidy(match.group()), subject=match["subject"].lower())
        for match in _OWN.finditer(text)
        if not any(_tidy(match.group()) in fact.text for fact in told)
    ]
    return [fact for fact in (*told, *own) if fact.text]


def _tidy(text: str) -> str:
    return " ".join(text.lower().split())[:LONGEST].strip(" ,;:")
