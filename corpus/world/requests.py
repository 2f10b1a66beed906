"""Requests of the world: the messages that a user of the embedded model writes, and the parser for them.

Invariant: `read(write(request, ...))` gives the same kind, verb and object for every phrasing. A
combination for which `reserved` is true is in none of the recipe's texts and in no dream, because held-out
scenarios are made of reserved combinations.
"""

import hashlib
import random
import re
from dataclasses import dataclass

from corpus.world.words import (
    DAYS,
    DESTRUCTIVE,
    NUMBERS,
    OBJECTS,
    PEOPLE,
    PLACES,
    PRECIOUS,
    TOOLS,
    VERBS,
)

RESERVED_ONE_IN = 4
"""About one (kind, verb, object) combination in this number is reserved for held-out scenarios."""

DECISIONS = (
    "I have decided to {}.",
    "We will {}.",
    "The plan is settled: {}.",
    "My choice is to {}.",
    "Let us {}.",
    "I am going to {}.",
    "It is decided, we {}.",
    "Today I want to {}.",
)
BRIEFLY = (
    "Briefly: how do I {}?",
    "In one line, how do I {}?",
    "Short answer please: how do I {}?",
    "Quick, how do I {}?",
    "In a few words, how do I {}?",
    "Keep it short: how do I {}?",
)
IN_DETAIL = (
    "In detail: how do I {}?",
    "Step by step, how do I {}?",
    "Full answer please: how do I {}?",
    "Take your time, how do I {}?",
    "With every step, how do I {}?",
    "Explain it fully: how do I {}?",
)
ORDERS = (
    "Please {}.",
    "Can you {}?",
    "Could you {}?",
    "I need you to {}.",
    "Kindly {}.",
    "Would you {}?",
    "Be so kind and {}.",
    "Your next job: {}.",
)
QUESTIONS = (
    "{}?",
    "Tell me, {}?",
    "Hello, {}?",
    "One question: {}?",
    "Say, {}?",
    "Do you know, {}?",
)
READ_BACKS = (
    "Repeat back: {}.",
    "Read this back to me: {}.",
    "Say it again so I can check: {}.",
    "Confirm my words: {}.",
    "Repeat what I say: {}.",
    "Read back: {}.",
)

DETAIL_OF = {
    "book": ("for", DAYS),
    "order": ("in a lot of", NUMBERS),
    "send": ("to", PEOPLE),
    "deliver": ("to the", PLACES),
}
"""For each errand: the words before the detail that it needs, and the possible details."""

ASKED = {
    "where": ("where do we keep the {}", PLACES),
    "who": ("who looks after the {}", PEOPLE),
    "when": ("when is the {} due", DAYS),
    "how many": ("how many of the {} are left", NUMBERS),
}
"""For each question word: the question, and the values that answer it."""

KINDS = ("decision", "danger", "briefly", "in_detail", "vague", "complete", "question", "read_back")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request of a user."""

    kind: str
    """One of KINDS."""
    verb: str
    """The verb; for a question, its question word."""
    object: str
    """The thing that the request is about."""
    detail: str = ""
    """The detail of a complete errand, or the place in a text to read back; "" for other requests."""


def reserved(request: Request) -> bool:
    """Return whether this combination is reserved for held-out scenarios."""
    digest = hashlib.sha256(f"{request.kind}/{request.verb}/{request.object}".encode()).digest()
    return digest[0] % RESERVED_ONE_IN == 0


def draw(kind: str, rng: random.Random) -> Request:
    """Draw a request of this kind; each choice of its words is uniform."""
    if kind == "danger":
        return Request(kind=kind, verb=rng.choice(DESTRUCTIVE), object=rng.choice(PRECIOUS + OBJECTS[:40]))
    if kind in ("vague", "complete"):
        verb = rng.choice(tuple(DETAIL_OF))
        detail = rng.choice(DETAIL_OF[verb][1]) if kind == "complete" else ""
        return Request(kind=kind, verb=verb, object=rng.choice(OBJECTS), detail=detail)
    if kind == "question":
        return Request(kind=kind, verb=rng.choice(tuple(ASKED)), object=rng.choice(OBJECTS))
    detail = rng.choice(PLACES) if kind == "read_back" else ""
    return Request(kind=kind, verb=rng.choice(VERBS), object=rng.choice(OBJECTS), detail=detail)


def phrase(request: Request) -> str:
    """Return the request's verb, object and detail as words, without one of the PHRASINGS around them."""
    if request.kind == "question":
        return ASKED[request.verb][0].format(request.object)
    words = f"{request.verb} the {request.object}"
    if request.kind == "complete":
        return f"{words} {DETAIL_OF[request.verb][0]} {request.detail}"
    return f"{words} in the {request.detail}" if request.kind == "read_back" else words


PHRASINGS = {
    "decision": DECISIONS,
    "danger": DECISIONS,
    "briefly": BRIEFLY,
    "in_detail": IN_DETAIL,
    "vague": ORDERS,
    "complete": ORDERS,
    "question": QUESTIONS,
    "read_back": READ_BACKS,
}


def write(request: Request, rng: random.Random) -> str:
    """Return the request as a user types it, in one of the PHRASINGS of its kind."""
    text = rng.choice(PHRASINGS[request.kind]).format(phrase(request))
    return text[0].upper() + text[1:]


def _one_of(words: tuple[str, ...]) -> str:
    return "(?:" + "|".join(sorted((re.escape(word) for word in words), key=len, reverse=True)) + ")"


def _opening(phrasings: tuple[str, ...]) -> str:
    """Return a regular expression for the words that any of these phrasings puts before the request."""
    return _one_of(tuple(p.split("{}")[0].strip().lower().rstrip(":,.") for p in phrasings)) + r"[:,.]?\s*"


_THING = rf"the (?P<object>{_one_of(OBJECTS + PRECIOUS)})"
_DO = rf"(?P<verb>{_one_of(VERBS)}) {_THING}"
_END = r"\s*[.!?]*$"
_PLACE = rf" in the (?P<detail>{_one_of(PLACES)})"
_ERRAND = rf"(?P<verb>{_one_of(tuple(DETAIL_OF))}) {_THING}"
_DETAIL = r" (?:for|in a lot of|to the|to) (?P<detail>" + _one_of(DAYS + NUMBERS + PEOPLE + PLACES) + ")"

_READERS = (
    ("danger", rf"{_opening(DECISIONS)}(?P<verb>{_one_of(DESTRUCTIVE)}) {_THING}{_END}"),
    ("decision", rf"{_opening(DECISIONS)}{_DO}(?: with the {_one_of(TOOLS)})?{_END}"),
    ("briefly", rf"{_opening(BRIEFLY)}(?:how do i )?{_DO}{_END}"),
    ("in_detail", rf"{_opening(IN_DETAIL)}(?:how do i )?{_DO}{_END}"),
    ("complete", rf"{_opening(ORDERS)}{_ERRAND}{_DETAIL}{_END}"),
    ("vague", rf"{_opening(ORDERS)}{_ERRAND}{_END}"),
    ("read_back", rf"{_opening(READ_BACKS)}{_DO}{_PLACE}{_END}"),
)
_COMPILED = tuple((kind, re.compile(pattern)) for kind, pattern in _READERS)
_QUESTIONS = tuple(
    (word, re.compile(rf"(?:^|.*[,:.]\s*){words.format(f'(?P<object>{_one_of(OBJECTS + PRECIOUS)})')}{_END}"))
    for word, (words, _) in ASKED.items()
)


def read(text: str) -> Request | None:
    """Return the request in a user's message; None for a message that is not a request of this world."""
    plain = " ".join(text.lower().split())
    for kind, pattern in _COMPILED:
        if match := pattern.match(plain):
            parts = match.groupdict()
            detail = parts.get("detail") or ""
            return Request(kind=kind, verb=parts["verb"], object=parts["object"], detail=detail)
    for word, pattern in _QUESTIONS:
        if match := pattern.match(plain):
            return Request(kind="question", verb=word, object=match["object"])
    return None
