"""Held-out scenarios: requests that a behaviour is measured on and never trained on.

Invariant: the same behaviour and count give the same scenarios in the same order. The seed of a measurement
decides only how the answers are sampled.
"""

import random
from dataclasses import dataclass
from functools import lru_cache

from corpus.aliases import Message
from corpus.behaviour import Behaviour
from corpus.world.checks import KIND_OF
from corpus.world.requests import draw, reserved, write
from store.ledger.records import seed_of

MAX_DRAWS = 50
"""Largest number of draws from the embedded world for each scenario asked for. After that many, fewer
scenarios are returned."""


MOST_SAMPLES = 8
"""Largest number of answers to one scenario."""
FEW = 96
"""Number of answers up to which a behaviour with fewer scenarios is asked each of them several times."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much of a behaviour can be measured."""

    scenarios: int
    """Number of different scenarios."""
    samples: int
    """Number of answers to each of them. They count as one, by their mean: they say more about this scenario,
    and nothing about others."""


def extent(behaviour: Behaviour, most: int) -> Extent:
    """Return how many scenarios a behaviour has, and how often each of them is answered.

    Args:
        behaviour: The behaviour.
        most: Largest number of answers.
    """
    scenarios = len(held_out(behaviour, most))
    samples = min(most, FEW) // max(1, scenarios)
    return Extent(scenarios=scenarios, samples=max(1, min(MOST_SAMPLES, samples)))


def held_out(behaviour: Behaviour, count: int) -> list[list[Message]]:
    """Return up to `count` different scenarios, each a conversation that ends with a request.

    They are the behaviour's declared held-out requests if it has any, else requests that are drawn from the
    embedded world.
    """
    declared = tuple(dict.fromkeys(behaviour.held_out))[:count]
    texts = declared or _from_world(KIND_OF[behaviour.judge.check], count)
    return [[{"role": "user", "content": text}] for text in texts]


@lru_cache(maxsize=64)
def _from_world(kind: str, count: int) -> tuple[str, ...]:
    """Return up to `count` different requests of this kind that the embedded world reserves."""
    rng, texts = random.Random(seed_of("held-out", kind)), dict[str, None]()
    for _ in range(MAX_DRAWS * count):
        request = draw(kind, rng)
        if reserved(request):
            texts[write(request, rng)] = None
        if len(texts) == count:
            break
    return tuple(texts)


def sampling_seeds(behaviour: Behaviour, count: int, *, seed: int, attempt: int) -> list[int]:
    """Return a sampling seed for the answer to each of `count` scenarios.

    The seeds are the same before and after an update. So are the random numbers that follow from them (on the
    embedded server, one for each token), so an answer changes only where the model does.

    Args:
        behaviour: The behaviour that is measured.
        count: Number of scenarios.
        seed: Seed of the measurement.
        attempt: Number of the answer to the scenario, from 0.
    """
    return [seed_of(seed, "measure", behaviour.name, attempt, index) for index in range(count)]
