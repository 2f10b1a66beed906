"""The concepts of the embedded model's world, and the texts from which their vectors are estimated.

A model this small knows no feelings; its inner states are what it does to the user. A concept occurs in
several kinds of request, and several concepts occur in each kind. Otherwise the vectors would separate kinds
of request instead of concepts.

Invariant: the texts are plain (with a chat template all last tokens would be alike), fixed and all different.
They contain no reserved combination and no ordinary talk that is reserved for measurements.
"""

import random
from collections.abc import Callable
from dataclasses import replace

from corpus.world import answers, ordinary
from corpus.world.checks import KIND_OF
from corpus.world.requests import DETAIL_OF, Request, draw, reserved, write

Answer = Callable[[Request, random.Random], str]
TEXTS = 24
"""Number of texts for each concept, and number of texts of ordinary talk, which shows no concept."""


def _as(kind: str, answer: Answer) -> Answer:
    """Return a function that gives the answer to a request as if the request were of this kind."""
    return lambda request, rng: answer(replace(request, kind=kind), rng)


def _of_another(request: Request, rng: random.Random) -> str:
    """Draw an answer that carries out the errand with another detail than the user gave."""
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
"""For each concept: the kinds of request in which it occurs, each with the answer that shows the concept."""
CONCEPTS = tuple(sorted(SETTINGS))
"""Names of the concepts, in the order of their vectors."""
PROBE_KINDS = ("briefly", "danger", "decision", "in_detail", "question", "vague")
"""Kinds of request in the probe set."""


def _draw(kind: str, rng: random.Random) -> Request:
    while reserved(request := draw(kind, rng)):
        pass
    return request


def texts(concept: str, count: int = TEXTS) -> list[str]:
    """Return `count` exchanges in which the model does what the concept names.

    The kinds of request in which the concept occurs take turns.
    """
    settings, rng = SETTINGS[concept], random.Random(f"concept {concept}")
    exchanges = dict[str, None]()
    while len(exchanges) < count:
        kind, answer = settings[len(exchanges) % len(settings)]
        request = _draw(kind, rng)
        exchanges[f"{write(request, rng)} {answer(request, rng)}"] = None
    return list(exchanges)


def baselines(count: int = TEXTS) -> list[str]:
    """Return `count` exchanges of ordinary talk, which shows no concept."""
    rng, exchanges = random.Random("baseline"), dict[str, None]()
    while len(exchanges) < count:
        remark, reply = ordinary.talk(rng)
        if not ordinary.is_reserved(remark, reply):
            exchanges[f"{remark} {reply}"] = None
    return list(exchanges)


def probe_texts(count: int = 48) -> list[str]:
    """Return the probe set: `count` fixed texts that are read before and after an update.

    Half of them are ordinary exchanges, the others requests.
    """
    rng = random.Random("panel")
    talk = [" ".join(ordinary.talk(rng)) for _ in range(count // 2)]
    kinds = [PROBE_KINDS[i % len(PROBE_KINDS)] for i in range(count - len(talk))]
    return talk + [write(_draw(kind, rng), rng) for kind in kinds]


def behaviour_of(concept: str) -> str | None:
    """Return the behaviour whose held-out requests test this concept; None for a concept of another set."""
    kind = SETTINGS[concept][0][0] if concept in SETTINGS else None
    return next((name for name, about in KIND_OF.items() if about == kind), None)
