"""Ordinary talk of the world, which shows none of the trained behaviours.

The recipe trains on ordinary talk, and demo conversations contain it. The perplexity on its reserved part
shows whether an update has harmed what it was not meant to change. Invariant: `requests.read` finds no
request in ordinary talk (tested).
"""

import random

from corpus.world.words import DAYS, MATERIALS, OBJECTS, PEOPLE, PLACES, QUALITIES

RESERVED_ONE_IN = 4
"""About one exchange in this number is reserved for measurements."""


def talk(rng: random.Random) -> tuple[str, str]:
    """Draw a remark and a reply."""
    o, q = rng.choice(OBJECTS), rng.choice(QUALITIES)
    p, place, day, m = rng.choice(PEOPLE), rng.choice(PLACES), rng.choice(DAYS), rng.choice(MATERIALS)
    return rng.choice(
        (
            ("Good morning.", "Good morning to you."),
            (f"Good morning, I am {p}.", f"Good morning, {p}."),
            ("Thank you.", "You are welcome."),
            (f"The {o} is {q}.", f"Good to know that the {o} is {q}."),
            (f"The {o} is made of {m}.", f"Then it is a {m} {o}."),
            (f"I saw {p} in the {place}.", f"Then {p} is in the {place}."),
            (f"It will rain on {day}.", f"Then we stay inside on {day}."),
            (f"{p.capitalize()} is back on {day}.", f"Then we see {p} on {day}."),
            (f"The {place} is {q}.", f"I see, the {place} is {q}."),
            (f"We have a new {o} of {m}.", f"A new {m} {o}, very good."),
            (f"See you on {day}.", f"See you on {day}, good night."),
        )
    )


def is_reserved(remark: str, reply: str) -> bool:
    """Return whether this exchange is reserved for measurements and never trained on."""
    return sum(f"{remark} {reply}".encode()) % RESERVED_ONE_IN == 0


def held_out(count: int) -> list[tuple[str, str]]:
    """Return the first `count` different reserved exchanges, drawn with a fixed seed."""
    rng, exchanges = random.Random(7), dict[tuple[str, str], None]()
    while len(exchanges) < count:
        exchange = talk(rng)
        if is_reserved(*exchange):
            exchanges[exchange] = None
    return list(exchanges)
