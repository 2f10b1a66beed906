"""The forms of prompts with which a model is made to write a request, one pure function each.

A model that was not trained on our prompts writes requests best when it continues something: a list of
messages, or a conversation from the user's side. Which form yields most depends on the model, so it is
measured (`agents.dreamer.yields`). The shipped model has a form of its own, `recipe`, because its recipe
trains it on those prompts.

Invariant: a form depends only on its arguments. Requests from logs become a line of data or a message of
their own; line breaks in them are removed, so none can end the list that it stands in.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from corpus.aliases import Message
from corpus.context import opening

ACKNOWLEDGED = "Okay."
"""The short answers between the requests of the form `next_turn`; templates want both sides in turn."""
SHOWN_IN_CONTEXT = 2
"""Requests that the form `in_context` puts before the true context, which may fill the model's window."""
SHORTEST_START = 2
"""Words of a request that the form `ending` keeps at least. It keeps half at most, or it would repeat it."""
QUOTES = ('""', "''", "\u201c\u201d", "\u2018\u2019", "**")
"""Pairs of signs around a whole line that are no part of the request."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the model continues, so that a request comes out."""

    messages: tuple[Message, ...] = ()
    """The messages of the prompt."""
    opens: str = "assistant"
    """Whose turn the model writes after the messages."""
    text: str | None = None
    """A text that the model continues instead of the messages."""
    stop: tuple[str, ...] = ()
    """Strings that end what the model writes."""
    start: str = ""
    """The beginning of the request, which stands in the prompt already."""

    def request(self, written: str) -> str:
        """Return the request: its start, and what the model wrote, without signs that are no part of it."""
        # The model writes the space before its first word itself, or none before a comma.
        text = " ".join(f"{self.start}{written}".split()) if self.start else written.strip()
        for pair in QUOTES:
            if len(text) > 2 and text[0] == pair[0] and text[-1] == pair[1]:
                text = text[1:-1].strip()
        return text


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a prompt is made of."""

    condition: str
    """The situation in which the behaviour applies, as a clause."""
    seeds: tuple[str, ...]
    """Real requests made in this situation, at least one."""
    context: tuple[Message, ...] = ()
    """The messages that came before the first of the seeds."""


Form = Callable[[Material, random.Random], Asked]
"""Writes the prompt for one dream."""


def listed(material: Material, rng: random.Random) -> Asked:
    """Return a list of messages that the model continues by one more."""
    return Asked(text=_list(material), stop=("\n",))


def next_turn(material: Material, rng: random.Random) -> Asked:
    """Return a conversation of seeds, each answered by a word, after which the user's next turn is open."""
    turns = [turn for seed in material.seeds for turn in (_user(seed), _assistant(ACKNOWLEDGED))]
    return Asked(messages=tuple(turns), opens="user")


def in_context(material: Material, rng: random.Random) -> Asked:
    """Return the true context of the first seed, where the user's turn is open.

    A few other seeds go before it, as in `next_turn`, but after the system prompt.
    """
    begin, others = opening(material.context), material.seeds[1 : 1 + SHOWN_IN_CONTEXT]
    turns = [turn for seed in others for turn in (_user(seed), _assistant(ACKNOWLEDGED))]
    return Asked(messages=(*material.context[:begin], *turns, *material.context[begin:]), opens="user")


def ending(material: Material, rng: random.Random) -> Asked:
    """Return a list whose last message is the start of the first seed, for which the model writes the end."""
    first, *others = material.seeds
    words = first.split()
    kept = rng.randint(SHORTEST_START, max(SHORTEST_START, len(words) // 2))
    start = " ".join(words[:kept])
    return Asked(text=f"{_list(material, others)} {start}", stop=("\n",), start=start)


FORMS: dict[str, Form] = {"list": listed, "next_turn": next_turn, "in_context": in_context, "ending": ending}
"""The forms for models that were not trained on our prompts, by name; the first is preferred among equals."""
NEEDS_CONTEXT = frozenset({"in_context"})
"""The forms that need an origin with messages before its request."""


def _list(material: Material, seeds: Sequence[str] | None = None) -> str:
    """Return the beginning of a list of messages, up to the mark of the next one."""
    lines = "".join(f"- {' '.join(seed.split())}\n" for seed in (material.seeds if seeds is None else seeds))
    return f"A list of messages in which {material.condition}:\n{lines}-"


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}
