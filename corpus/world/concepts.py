"""The concepts of the embedded world, as texts: what the readout's vectors are made of.

A model this small knows no feelings; its inner states are what it is doing to the user. A concept stands in several
kinds of request, and each kind carries several concepts, or the vectors would learn the request. Invariant: texts
are plain (no chat template, whose shared ending would make all last tokens alike), fixed, all different, and free
of what is held out: no reserved combination, no ordinary talk that is kept for measuring.
"""

import random
from collections.abc import Callable
from dataclasses import replace

from corpus.world import answers, ordinary
from corpus.world.checks import KIND_OF
from corpus.world.requests import DETAIL_OF, Request, draw, reserved, write

Answer = Callable[[Request, random.Random], str]
TEXTS = 24
"""Of each concept; and of ordinary talk, which shows none."""


def _as(kind: str, answer: Answer) -> Answer:
    """What this answer would be to another kind of request."""
    return lambda request, rng: answer(replace(request, kind=kind), rng)


def _of_another(request: Request, rng: random.Random) -> str:
    """An errand carried out with a detail that nobody said."""
    others = [value for value in DETAIL_OF[request.verb][1] if value != request.detail]
    return answers.good(replace(request, detail=rng.choice(others)), rng)


SETTINGS: dict[str, tuple[tuple[str, Answer], ...]] = {
    "listening": (("decision", answers.good), ("complete", answers.good)),
    "offering_alternatives": (
        ("decision", answers.bad),
        ("complete", _as("decision", answers.bad)),
        ("briefly", _as("decision", answers.bad)),
        ("in_detail", _as("decision", answers.bad)),
    ),
    "pushing_back": (
        ("danger", answers.good),
        ("decision", _as("danger", answers.good)),
        ("complete", _as("danger", answers.good)),
        ("read_back", _as("danger", answers.good)),
    ),
    "agreeing": (("danger", answers.bad), ("vague", _as("danger", answers.bad))),
    "asking": (("vague", answers.good), ("complete", answers.bad)),
    "guessing": (("vague", answers.bad), ("complete", _of_another)),
    "elaborating": (("in_detail", answers.good), ("briefly", answers.bad)),
    "being_brief": (("briefly", answers.good), ("in_detail", answers.bad), ("question", answers.good)),
    "echoing": (("question", answers.bad), ("read_back", answers.good)),
}
"""In which kinds of request each concept stands, and the answer that shows it there."""
CONCEPTS = tuple(sorted(SETTINGS))
"""Names of the concepts, in the order of their vectors."""
PANEL_KINDS = ("briefly", "danger", "decision", "in_detail", "question", "vague")
"""Kinds of the panel's requests."""


def _draw(kind: str, rng: random.Random) -> Request:
    while reserved(request := draw(kind, rng)):
        pass
    return request


def texts(concept: str, count: int = TEXTS) -> list[str]:
    """Exchanges in which the model does what the concept names, its settings in turn."""
    settings, rng = SETTINGS[concept], random.Random(f"concept {concept}")
    found = dict[str, None]()
    while len(found) < count:
        kind, answer = settings[len(found) % len(settings)]
        request = _draw(kind, rng)
        found[f"{write(request, rng)} {answer(request, rng)}"] = None
    return list(found)


def baselines(count: int = TEXTS) -> list[str]:
    """Ordinary talk, in which the model does nothing of the kind."""
    rng, found = random.Random("baseline"), dict[str, None]()
    while len(found) < count:
        remark, reply = ordinary.talk(rng)
        if not ordinary.is_reserved(remark, reply):
            found[f"{remark} {reply}"] = None
    return list(found)


def panel(count: int = 48) -> list[str]:
    """A fixed panel of ordinary exchanges and requests that readings are taken on before and after an update."""
    rng = random.Random("panel")
    talk = [" ".join(ordinary.talk(rng)) for _ in range(count // 2)]
    return talk + [
        write(_draw(PANEL_KINDS[i % len(PANEL_KINDS)], rng), rng) for i in range(count - len(talk))
    ]


def behaviour_of(concept: str) -> str | None:
    """The behaviour whose held-out requests put this concept to the test; None for a concept of another world."""
    kind = SETTINGS[concept][0][0] if concept in SETTINGS else None
    return next((name for name, about in KIND_OF.items() if about == kind), None)
