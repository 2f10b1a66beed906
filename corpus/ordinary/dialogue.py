"""The exchanges of the ordinary dialogue, a fixed selection of them, and their digest.

Invariant: the same files give the same exchanges in the same order, and a smaller selection is the beginning
of a larger one. This module knows nothing about tokenizers.
"""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import zip_longest
from pathlib import Path

from corpus.aliases import Message

HERE = Path(__file__).parent
SEED = 13
"""Seed of the order in which the exchanges of a category are selected."""


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One answer of the assistant with the conversation before it."""

    category: str
    context: tuple[Message, ...]
    """The messages before the answer; the last is the user's, the first may be a system prompt."""
    answer: str


def load(root: Path = HERE) -> tuple[Exchange, ...]:
    """Return every exchange in the files of `root`, by category (the file's name) and place in the file."""
    exchanges = []
    for path in sorted(root.glob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            messages = json.loads(line)["messages"]
            exchanges += [
                Exchange(category=path.stem, context=tuple(messages[:index]), answer=message["content"])
                for index, message in enumerate(messages)
                if message["role"] == "assistant"
            ]
    return tuple(exchanges)


def select(exchanges: Sequence[Exchange], count: int) -> tuple[Exchange, ...]:
    """Return up to `count` exchanges, one from each category in turn.

    Within a category their order is drawn with `SEED`.
    """
    rng = random.Random(SEED)
    shuffled = []
    for category in sorted({exchange.category for exchange in exchanges}):
        members = [exchange for exchange in exchanges if exchange.category == category]
        rng.shuffle(members)
        shuffled.append(members)
    in_turn = [exchange for row in zip_longest(*shuffled) for exchange in row if exchange is not None]
    return tuple(in_turn[:count])


def digest(exchanges: Sequence[Exchange]) -> str:
    """Return the SHA-256 of the exchanges in their order."""
    rows = json.dumps([astuple(exchange) for exchange in exchanges], sort_keys=True)
    return hashlib.sha256(rows.encode()).hexdigest()
