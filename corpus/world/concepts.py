"""The concepts of the embedded model's world, as the texts from which the readout's vectors are estimated.

A model this small knows no feelings; its inner states are what it does to the user. A concept occurs in
several kinds of request, and each kind has several concepts, or the vectors would separate requests instead
of concepts.

Invariant: texts are plain (a chat template would make all last tokens alike), fixed and all different. None
of them is held out: they contain no reserved combination and no ordinary talk that is reserved for
measurements.
"""

import random
from collections.abc import Callable
from dataclasses import replace

from corpus.world import answers, ordinary
from corpus.world.checks import KIND_OF
from corpus.world.requests import DETAIL_OF, Request, draw, reserved, write

Answer = Callable[[Request, random.Random], str]
TEXTS = 24
"""Number of texts for each concept, and of ordinary talk, which shows none."""


def _as(kind: str, answer: Answer) -> Answer:
    """Return the answer for a request as if it were of this kind."""
    return lambda request, rng: answer(replace(request, kind=kind), rng)


def _of_another(request: Request, rng: random.Random) -> str:
    """Carry out an errand with a detail that the user did not give."""
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
"""The kinds of request in which each concept occurs, and the answer that shows it there."""
CONCEPTS = tuple(sorted(SETTINGS))
"""Names of the concepts, in the order of their vectors."""
PROBE_KINDS = ("briefly", "danger", "decision", "in_detail", "question", "vague")
"""Kinds of the requests in the probe set."""


def _draw(kind: str, rng: random.Random) -> Request:
    while reserved(request := draw(kind, rng)):
        pass
    return request


def texts(concept: str, count: int = TEXTS) -> list[str]:
    """Return exchanges in which the model does what the concept names, from its settings in turn."""
    settings, rng = SETTINGS[concept], random.Random(f"concept {concept}")
    exchanges = dict[str, None]()
    while len(exchanges) < count:
        kind, answer = settings[len(exchanges) % len(settings)]
        request = _draw(kind, rng)
        exchanges[f"{write(request, rng)} {answer(request, rng)}"] = None
    return list(exchanges)


def baselines(count: int = TEXTS) -> list[str]:
    """Return ordinary talk, which shows no concept."""
    rng, exchanges = random.Random("baseline"), dict[str, None]()
    while len(exchanges) < count:
        remark, reply = ordinary.talk(rng)
        if not ordinary.is_reserved(remark, reply):
            exchanges[f"{remark} {reply}"] = None
    return list(exchanges)


def probe_texts(count: int = 48) -> list[str]:
    """Return the probe set: fixed ordinary exchanges and requests for readings before and after an update."""
    rng = random.Random("panel")
    talk = [" ".join(ordinary.talk(rng)) for _ in range(count // 2)]
    kinds = [PROBE_KINDS[i % len(PROBE_KINDS)] for i in range(count - len(talk))]
    return talk + [write(_draw(kind, rng), rng) for kind in kinds]


def behaviour_of(concept: str) -> str | None:
    """Return the behaviour whose held-out requests test this concept; None for a concept of another world."""
    kind = SETTINGS[concept][0][0] if concept in SETTINGS else None
    return next((name for name, about in KIND_OF.items() if about == kind), None)
