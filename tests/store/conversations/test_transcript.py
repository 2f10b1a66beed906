"""A conversation is found by its id or the beginning of it, else the one that was heard last."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from corpus.conversation import Conversation, Turn
from corpus.errors import UnknownId
from store.conversations import conversations
from store.conversations.conversations import transcript
from store.ledger.db import Ledger


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    with ledger.writing() as connection:
        yield connection
    ledger.close()


def hear(connection: Connection, *texts: str, source: str = "ada") -> str:
    turns = tuple(Turn(role=("user", "assistant")[i % 2], text=text, line=1) for i, text in enumerate(texts))
    heard = Conversation(source=source, format="openai", turns=turns)
    return conversations.add(connection, heard, "/logs/a.jsonl").conversation_id


def test_a_conversation_is_found_with_its_turns_in_order_by_the_beginning_of_its_id(
    connection: Connection,
) -> None:
    first, second = hear(connection, "Hello.", "Good day.", "Bye."), hear(connection, "Again.")
    wanted = (("user", "Hello."), ("assistant", "Good day."), ("user", "Bye."))
    assert transcript(connection, first).turns == transcript(connection, first[:8]).turns == wanted
    assert transcript(connection, None).id == second
    hear(connection, "Hello.", "Good day.", "Bye.", "Until monday.")
    assert transcript(connection, None).id == first


@pytest.mark.parametrize("wanted", ["", "nonsense", "%", "_"])
def test_what_is_no_id_is_said_to_be_none(connection: Connection, wanted: str) -> None:
    hear(connection, "Hello.")
    with pytest.raises(UnknownId, match="neither a file nor"):
        transcript(connection, wanted)


def test_an_ambiguous_beginning_and_an_empty_ledger_are_told(connection: Connection) -> None:
    with pytest.raises(UnknownId, match="nightschool ingest"):
        transcript(connection, None)
    ids = [hear(connection, f"Hello {number}.") for number in range(40)]
    twice = next(one[0] for one in ids if sum(other[0] == one[0] for other in ids) > 1)
    with pytest.raises(UnknownId, match="several conversations"):
        transcript(connection, twice)
