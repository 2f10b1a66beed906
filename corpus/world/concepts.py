"""The concepts of the embedded world, as texts: what the readout's vectors are made of.

A model this small knows no feelings; its inner states are what it is doing to the user. Invariant: texts are
plain (no chat template, whose shared ending would make all last tokens alike), fixed, and free of reserved
combinations.
"""

import random

from corpus.world import answers, ordinary
from corpus.world.checks import KIND_OF
from corpus.world.requests import Request, draw, reserved, write

_TEXTS_OF = {
    "listening": ("decision", answers.good),
    "offering_alternatives": ("decision", answers.bad),
    "pushing_back": ("danger", answers.good),
    "agreeing": ("danger", answers.bad),
    "asking": ("vague", answers.good),
    "guessing": ("vague", answers.bad),
    "elaborating": ("in_detail", answers.good),
    "being_brief": ("briefly", answers.good),
    "echoing": ("question", answers.bad),
}
CONCEPTS = tuple(sorted(_TEXTS_OF))
"""Names of the concepts, in the order of their vectors."""


def _draw(kind: str, rng: random.Random) -> Request:
    while reserved(request := draw(kind, rng)):
        pass
    return request


def texts(concept: str, count: int = 24) -> list[str]:
    """Exchanges in which the model does what the concept names."""
    kind, answer = _TEXTS_OF[concept]
    rng = random.Random(f"concept {concept}")
    requests = [_draw(kind, rng) for _ in range(count)]
    return [f"{write(request, rng)} {answer(request, rng)}" for request in requests]


def panel(count: int = 48) -> list[str]:
    """A fixed panel of ordinary exchanges and requests that readings are taken on before and after an update."""
    rng = random.Random("panel")
    kinds = sorted({kind for kind, _ in _TEXTS_OF.values()})
    talk = [" ".join(ordinary.talk(rng)) for _ in range(count // 2)]
    return talk + [write(_draw(kinds[i % len(kinds)], rng), rng) for i in range(count - len(talk))]


def behaviour_of(concept: str) -> str | None:
    """The behaviour whose held-out requests put this concept to the test; None for a concept of another world."""
    kind = _TEXTS_OF[concept][0] if concept in _TEXTS_OF else None
    return next((name for name, about in KIND_OF.items() if about == kind), None)
