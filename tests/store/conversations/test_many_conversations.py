"""A batch of conversations leaves what its conversations leave one after the other."""

import random
from dataclasses import replace
from typing import Any

import pytest

from corpus.conversation import Conversation, Turn
from store.conversations import conversations
from store.conversations.batch import add_all
from store.ledger import schema
from store.ledger.db import Ledger

PATH = "/logs/a.jsonl"
TOOLS = ({"type": "function", "function": {"name": "book"}},)


def talk(draw: random.Random) -> Conversation:
    """Return a conversation that may repeat, continue or resemble another."""
    words = [f"{draw.choice('ab')}{place}" for place in range(draw.randint(1, 5))]
    tools = draw.choice([None, None, None, (), TOOLS])
    keyed = draw.random() < 0.2
    turns = tuple(
        Turn(
            role=("user", "assistant")[place % 2],
            text=word,
            line=place,
            key=word if keyed else "",
            tools=tools,
        )
        for place, word in enumerate(words)
    )
    session = "" if keyed else draw.choice(["", "", "s"])
    source = draw.choice(["", "ada", "password=tr0ub4dor"])
    return Conversation(source=source, format="x", turns=turns, key="k" * keyed, session=session)


def rows(ledger: Ledger) -> list[list[dict[str, Any]]]:
    tables = (schema.conversations, schema.turns, schema.work)
    with ledger.reading() as connection:
        return [
            [{**row, "at": None} for row in connection.execute(table.select()).mappings()] for table in tables
        ]


def forgotten(ledger: Ledger, conversation: Conversation) -> None:
    with ledger.writing() as connection:
        chain = conversations.tombstones(conversation)[-1]
        connection.execute(schema.forgotten.insert().values(chain=chain, at=""))


@pytest.mark.parametrize("seed", [*range(6), 57, 144, 233])
def test_a_batch_leaves_the_rows_of_its_conversations_one_by_one(seed: int) -> None:
    draw = random.Random(seed)
    first, second = ([talk(draw) for _ in range(draw.randint(1, 14))] for _ in range(2))
    ledgers = [Ledger("sqlite://"), Ledger("sqlite://")]
    for ledger in ledgers if seed % 3 == 0 else []:
        forgotten(ledger, replace(first[0], turns=first[0].turns[:1]))
    for batch in (first, second):
        with ledgers[0].writing() as connection:
            one_by_one = [conversations.add(connection, each, PATH) for each in batch]
        with ledgers[1].writing() as connection:
            assert add_all(connection, batch, PATH) == one_by_one
        assert rows(ledgers[0]) == rows(ledgers[1])
    for ledger in ledgers:
        ledger.close()
