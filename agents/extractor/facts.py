"""Facts that a user asks the assistant to remember, or states about themselves, in the user's own words.

Invariant: pure; a fact comes from a user's turn, never from an assistant's. It belongs to the source of the
conversation: a fact about one user says nothing about another. A turn that addresses this system instead of
the assistant gives no fact.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agents.extractor.harm import destructive, instructs
from corpus.conversation import Turn

LONGEST = 200
"""Number of characters to which a fact is cut."""

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
    """Index of the turn that states it."""
    text: str
    subject: str = ""
    """A subject that has one value at a time, such as "name", so that a second value contradicts the first;
    "" for any other fact."""


def facts(turns: Sequence[Turn]) -> tuple[Fact, ...]:
    """Return the facts in the user's turns, in the order of the turns; a repeated fact is returned once."""
    by_text = dict[str, Fact]()
    for position, turn in enumerate(turns):
        if turn.role != "user" or instructs(turn.text) or destructive(turn.text):
            continue
        for fact in _facts_in(position, turn.text[:2000]):
            by_text.setdefault(fact.text, fact)
    return tuple(by_text.values())


def _facts_in(position: int, text: str) -> list[Fact]:
    """Return the facts in one turn: first those that the user asks to remember, then those about the user."""
    asked = [Fact(position=position, text=_tidy(match["fact"])) for match in _ASKED.finditer(text)]
    own = [
        Fact(position=position, text=_tidy(match.group()), subject=match["subject"].lower())
        for match in _OWN.finditer(text)
        if not any(_tidy(match.group()) in fact.text for fact in asked)
    ]
    return [fact for fact in (*asked, *own) if fact.text]


def _tidy(text: str) -> str:
    return " ".join(text.lower().split())[:LONGEST].strip(" ,;:")
