"""A conversation is found by its id or a prefix of it; without either, the newest is found."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from corpus.conversation import Conversation, Turn
from corpus.errors import UnknownId
from store import queries
from store.conversations import conversations
from store.ledger.db import Ledger


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    with ledger.writing() as connection:
        yield connection
    ledger.close()


def hear(connection: Connection, *texts: str, source: str = "ada") -> str:
    turns = tuple(Turn(role=("user", "assistant")[i % 2], text=text, line=1) for i, text in enumerate(texts))
    conversation = Conversation(source=source, format="openai", turns=turns)
    return conversations.add(connection, conversation, "/logs/a.jsonl").conversation_id


def test_a_conversation_is_found_with_its_turns_in_order_by_a_prefix_of_its_id(
    connection: Connection,
) -> None:
    first, second = hear(connection, "Hello.", "Good day.", "Bye."), hear(connection, "Again.")
    wanted = [("user", "Hello."), ("assistant", "Good day."), ("user", "Bye.")]
    assert [(turn.role, turn.text) for turn in queries.turns(connection, first)] == wanted
    for name in (first, first[:8]):
        assert queries.conversation_named(connection, name).id == first
    assert queries.conversation_named(connection, None).id == second
    hear(connection, "Hello.", "Good day.", "Bye.", "Until monday.")
    assert queries.conversation_named(connection, None).id == first


@pytest.mark.parametrize("wanted", ["", "nonsense", "%", "_"])
def test_a_name_that_is_not_an_id_is_refused(connection: Connection, wanted: str) -> None:
    hear(connection, "Hello.")
    with pytest.raises(UnknownId, match="neither a file nor"):
        queries.conversation_named(connection, wanted)


def test_an_ambiguous_prefix_and_an_empty_ledger_are_refused(connection: Connection) -> None:
    with pytest.raises(UnknownId, match="nightschool ingest"):
        queries.conversation_named(connection, None)
    ids = [hear(connection, f"Hello {number}.") for number in range(40)]
    shared = next(first[0] for first in ids if sum(other[0] == first[0] for other in ids) > 1)
    with pytest.raises(UnknownId, match="several conversations"):
        queries.conversation_named(connection, shared)
