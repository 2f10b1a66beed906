"""Held-out scenarios: a behaviour is measured on them and never trained on them.

Invariant: the same behaviour and count give the same scenarios in the same order, whatever the seed. The seed
decides how the answers are sampled, not what is asked.
"""

import random
from itertools import cycle, islice

from corpus.aliases import Message
from corpus.behaviour import Behaviour
from corpus.world.checks import KIND_OF
from corpus.world.requests import draw, reserved, write
from store.ledger.records import seed_of

MAX_DRAWS = 50
"""Draws for each scenario asked for, after which the world counts as exhausted."""


def held_out(behaviour: Behaviour, count: int) -> list[list[Message]]:
    """Return `count` scenarios, each a conversation that ends with a request.

    The world makes as many different ones. A behaviour's author declares few: those are repeated, and each
    time answered with another sampling seed.
    """
    if behaviour.held_out:
        texts = list(islice(cycle(behaviour.held_out), count))
    else:
        texts = _from_world(KIND_OF[behaviour.judge.check], count)
    return [[{"role": "user", "content": text}] for text in texts]


def _from_world(kind: str, count: int) -> list[str]:
    """Return different requests of this kind, made of reserved combinations."""
    rng, texts = random.Random(seed_of("held-out", kind)), dict[str, None]()
    for _ in range(MAX_DRAWS * count):
        request = draw(kind, rng)
        if reserved(request):
            texts[write(request, rng)] = None
        if len(texts) == count:
            break
    return list(texts)


def sampling_seeds(behaviour: Behaviour, count: int, *, seed: int, attempt: int) -> list[int]:
    """Return a seed for each scenario's answer: the same before and after an update, new in every round."""
    return [seed_of(seed, "measure", behaviour.name, attempt, index) for index in range(count)]
