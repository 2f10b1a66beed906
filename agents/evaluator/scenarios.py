"""Held-out scenarios: requests that a behaviour is measured on and never trained on.

Invariant: the same behaviour and count give the same scenarios in the same order. The seed of a measurement
decides only how the answers are sampled.
"""

import random
from itertools import cycle, islice

from corpus.aliases import Message
from corpus.behaviour import Behaviour
from corpus.world.checks import KIND_OF
from corpus.world.requests import draw, reserved, write
from store.ledger.records import seed_of

MAX_DRAWS = 50
"""Largest number of draws from the embedded world for each scenario asked for. After that many, fewer
scenarios are returned."""


def held_out(behaviour: Behaviour, count: int) -> list[list[Message]]:
    """Return up to `count` scenarios, each a conversation that ends with a request.

    If the behaviour declares held-out requests, these are repeated until there are `count`, and each
    repetition is answered with another sampling seed. Otherwise different requests are drawn from the
    embedded world.
    """
    if behaviour.held_out:
        texts = list(islice(cycle(behaviour.held_out), count))
    else:
        texts = _from_world(KIND_OF[behaviour.judge.check], count)
    return [[{"role": "user", "content": text}] for text in texts]


def _from_world(kind: str, count: int) -> list[str]:
    """Return up to `count` different requests of this kind that the embedded world reserves."""
    rng, texts = random.Random(seed_of("held-out", kind)), dict[str, None]()
    for _ in range(MAX_DRAWS * count):
        request = draw(kind, rng)
        if reserved(request):
            texts[write(request, rng)] = None
        if len(texts) == count:
            break
    return list(texts)


def sampling_seeds(behaviour: Behaviour, count: int, *, seed: int, attempt: int) -> list[int]:
    """Return a sampling seed for the answer to each of `count` scenarios.

    The seeds are the same before and after an update, and other seeds in every round.

    Args:
        behaviour: The behaviour that is measured.
        count: Number of scenarios.
        seed: Seed of the measurement.
        attempt: Number of the round.
    """
    return [seed_of(seed, "measure", behaviour.name, attempt, index) for index in range(count)]
