"""Conversations in a real ledger: new, known and grown ones, their work, and never a secret."""

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select

from corpus.aliases import Json
from corpus.conversation import Conversation, Structure, ToolCall, Turn, structure_of
from store import queries
from store.conversations.conversations import Added, add, conversation_of, find
from store.conversations.files import (
    FileState,
    file_state,
    forget_set_aside,
    ids_of_path,
    save_file_state,
    set_aside_line,
)
from store.ledger import schema
from store.ledger.db import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield ledger
    ledger.close()


def talk(*texts: str, source: str = "ada", key: str = "") -> Conversation:
    roles = ("user", "assistant")
    turns = tuple(
        Turn(role=roles[n % 2], text=text, line=1, key=f"k{text}" if key else "")
        for n, text in enumerate(texts)
    )
    return Conversation(source=source, format="claude-code" if key else "openai", turns=turns, key=key)


def put(ledger: Ledger, conversation: Conversation, path: str = "/logs/a.jsonl") -> Added:
    with ledger.writing() as connection:
        return add(connection, conversation, path)


def texts(ledger: Ledger, conversation_id: str) -> list[str]:
    table = schema.turns
    query = select(table.c.text).where(table.c.conversation_id == conversation_id).order_by(table.c.position)
    with ledger.reading() as connection:
        return list(connection.execute(query).scalars())


def work(ledger: Ledger) -> list[tuple[str, str, str]]:
    table = schema.work
    with ledger.reading() as connection:
        return [
            tuple(row) for row in connection.execute(select(table.c.kind, table.c.subject, table.c.state))
        ]


def test_a_new_conversation_is_stored_with_work_to_extract_it(ledger: Ledger) -> None:
    added = put(ledger, talk("a", "b"))
    assert (added.new_turns, added.known, len(added.conversation_id)) == (2, False, 16)
    assert texts(ledger, added.conversation_id) == ["a", "b"]
    assert work(ledger) == [("extract", f"{added.conversation_id}:2", "ready")]


def test_the_same_conversation_twice_is_one_conversation_whatever_file_it_came_from(ledger: Ledger) -> None:
    first = put(ledger, talk("a", "b"))
    again = put(ledger, replace(talk("a", "b"), format="sharegpt"), "/elsewhere/b.jsonl")
    assert again == Added(conversation_id=first.conversation_id, new_turns=0, known=True)
    assert len(work(ledger)) == 1


def test_a_log_without_a_user_is_recognised_under_another_file_name(ledger: Ledger) -> None:
    first = put(ledger, talk("a", "b", source=""), "/logs/app.jsonl")
    assert (
        put(ledger, talk("a", "b", source=""), "/logs/app-2025.jsonl").conversation_id
        == first.conversation_id
    )
    with ledger.reading() as connection:
        assert connection.execute(select(schema.conversations.c.source)).scalars().all() == ["app.jsonl"]


def test_two_users_with_the_same_words_have_two_conversations(ledger: Ledger) -> None:
    ids = {put(ledger, talk("a", source=user)).conversation_id for user in ("ada", "bob", "")}
    assert len(ids) == 3


def test_a_longer_version_continues_the_known_conversation(ledger: Ledger) -> None:
    first = put(ledger, talk("a", "b"))
    grown = put(ledger, talk("a", "b", "c"))
    assert grown == Added(conversation_id=first.conversation_id, new_turns=1, known=True)
    assert texts(ledger, first.conversation_id) == ["a", "b", "c"]
    assert work(ledger)[-1][1] == f"{first.conversation_id}:3"


def test_a_shorter_version_of_a_known_conversation_is_known(ledger: Ledger) -> None:
    whole = put(ledger, talk("a", "b", "c"))
    assert put(ledger, talk("a", "b")) == Added(
        conversation_id=whole.conversation_id, new_turns=0, known=True
    )


def test_another_answer_to_the_same_question_is_another_conversation(ledger: Ledger) -> None:
    first, second = put(ledger, talk("a", "b", "c")), put(ledger, talk("a", "b", "d"))
    assert first.conversation_id != second.conversation_id and second.new_turns == 3
    assert put(ledger, talk("a", "b", "d", "e")) == Added(
        conversation_id=second.conversation_id, new_turns=1, known=True
    )


def test_spaces_around_a_turn_do_not_make_another_conversation(ledger: Ledger) -> None:
    first = put(ledger, talk("a", "\n\nb "))
    assert put(ledger, talk("a", "b", "c")) == Added(
        conversation_id=first.conversation_id, new_turns=1, known=True
    )
    assert texts(ledger, first.conversation_id) == ["a", "\n\nb ", "c"]


def test_another_system_turn_is_the_same_conversation_only_within_a_session(
    ledger: Ledger,
) -> None:
    def at_time(time: str, *texts: str, session: str = "s1") -> Conversation:
        system = Turn(role="system", text=f"It is {time}.", line=1)
        return replace(talk(), turns=(system, *talk(*texts).turns), session=session)

    first = put(ledger, at_time("12:01", "a", "b"))
    grown = put(ledger, at_time("12:02", "a", "b", "c"))
    assert grown == Added(conversation_id=first.conversation_id, new_turns=1, known=True)
    assert texts(ledger, first.conversation_id) == ["It is 12:01.", "a", "b", "c"]
    for other in (at_time("12:01", "a", "b", session="s2"), at_time("12:01", "a", "b", session="")):
        assert not put(ledger, other).known
    assert not put(ledger, at_time("12:02", "a", "b", session="")).known


def test_a_conversation_is_found_by_its_first_turns_and_by_the_key_of_a_turn(ledger: Ledger) -> None:
    keyed = talk("a", "b")
    keyed = replace(keyed, turns=(keyed.turns[0], replace(keyed.turns[1], key="r1")))
    there = put(ledger, keyed).conversation_id
    put(ledger, talk("a", "b", "c"))
    with ledger.reading() as connection:
        assert [find(connection, talk(*texts)) for texts in ("a", "ab", "abc", "x")] == [
            there,
            there,
            there,
            None,
        ]
        assert [conversation_of(connection, key) for key in ("r1", "r2")] == [there, None]


def test_a_very_long_conversation_is_recognised(ledger: Ledger) -> None:
    long = [str(n) for n in range(3000)]
    first = put(ledger, talk(*long))
    assert put(ledger, talk(*long, "more")).conversation_id == first.conversation_id


def test_turns_that_arrive_in_any_pieces_give_the_same_conversation(tmp_path: Path) -> None:
    words = [str(n) for n in range(12)]
    rows = set()
    for round in range(4):
        draw, ledger = random.Random(round), Ledger(f"sqlite:///{tmp_path / f'{round}.db'}")
        start = 0
        while start < len(words):
            end = start + draw.randint(1, 12 if round else 1)
            put(ledger, talk(*words[:end], key="s1"))
            start = end
        with ledger.reading() as connection:
            row = connection.execute(select(schema.conversations.c.id, schema.conversations.c.tail)).one()
        assert texts(ledger, row.id) == words
        rows.add(row.id)
        ledger.close()
    assert len(rows) == 1


def test_two_sessions_that_begin_alike_are_two_conversations(ledger: Ledger) -> None:
    other = talk("hi", source="", key="s2")
    other = replace(other, turns=(replace(other.turns[0], key="another record"),))
    first, second = put(ledger, talk("hi", source="", key="s1")), put(ledger, other)
    assert first.conversation_id != second.conversation_id
    assert put(ledger, talk("hi", source="", key="s1")).new_turns == 0


def copied(ledger: Ledger, conversation_id: str) -> int:
    with ledger.reading() as connection:
        table = schema.conversations
        query = select(table.c.copied).where(table.c.id == conversation_id)
        return int(connection.execute(query).scalar_one())


def test_a_session_that_was_resumed_under_another_id_goes_on_where_it_was(ledger: Ledger) -> None:
    first = put(ledger, talk("a", "b", key="s1"))
    resumed = put(ledger, talk("a", "b", "c", key="s2"))
    assert (resumed.conversation_id, resumed.new_turns) == (first.conversation_id, 1)
    assert put(ledger, talk("a", key="s3")).new_turns == 0
    assert texts(ledger, first.conversation_id) == ["a", "b", "c"]


def test_a_fork_is_a_conversation_that_knows_how_many_turns_are_copied(ledger: Ledger) -> None:
    first = put(ledger, talk("a", "b", "c", key="s1"))
    for key in ("s2", "s1"):  # under another id, and in the same session after a step back
        fork = put(ledger, talk("a", "b", f"d{key}", key=key))
        assert fork.conversation_id != first.conversation_id and not fork.known
        assert copied(ledger, fork.conversation_id) == 2
        again = put(ledger, talk("a", "b", f"d{key}", "e", key=key))
        assert (again.conversation_id, again.new_turns) == (fork.conversation_id, 1)
    assert texts(ledger, first.conversation_id) == ["a", "b", "c"]


def test_an_answer_that_was_still_being_written_is_completed(ledger: Ledger) -> None:
    begun = talk("a", "b", key="s1")
    first = put(ledger, begun)
    whole = replace(begun, turns=(begun.turns[0], replace(begun.turns[1], text="b, and the rest")))
    assert put(ledger, whole).new_turns == 0
    assert texts(ledger, first.conversation_id) == ["a", "b, and the rest"]
    longer = talk("a", "b", "c", key="s1")
    put(ledger, replace(longer, turns=(*whole.turns, longer.turns[2])))
    assert texts(ledger, first.conversation_id) == ["a", "b, and the rest", "c"]


def test_two_homes_give_the_same_conversations_the_same_ids(tmp_path: Path) -> None:
    ids = []
    for home in ("one", "two"):
        (tmp_path / home).mkdir()
        ledger = Ledger(f"sqlite:///{tmp_path / home / 'ledger.db'}")
        ids.append(
            [
                put(ledger, talk(*words, key=key), f"/{home}/x").conversation_id
                for words, key in (("ab", ""), ("cd", "s"))
            ]
        )
        ledger.close()
    assert ids[0] == ids[1]


def test_a_transaction_that_fails_leaves_neither_turns_nor_work(ledger: Ledger) -> None:
    with pytest.raises(RuntimeError), ledger.writing() as connection:
        add(connection, talk("a"), "/logs/a.jsonl")
        raise RuntimeError("killed")
    assert work(ledger) == []
    assert put(ledger, talk("a")).known is False


def test_every_field_of_a_turn_is_stored(ledger: Ledger) -> None:
    moment = datetime(2025, 6, 1, 12, tzinfo=UTC)
    turn = Turn(role="assistant", text="x", line=9, time=moment, rating=-0.5, edited="y")
    put(ledger, Conversation(source="ada", format="trl", turns=(turn,)))
    with ledger.reading() as connection:
        row = connection.execute(select(schema.turns)).mappings().one()
    assert (row["line"], row["rating"], row["edited"], row["path"]) == (9, -0.5, "y", "/logs/a.jsonl")
    assert datetime.fromisoformat(row["time"]) == moment


def test_secrets_and_unstorable_characters_never_reach_the_file(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    secret = "hunter2hunter2"
    turn = Turn(
        role="user", text=f"password={secret} \ud800\0", line=1, edited=f"token={secret}", key=f"pwd={secret}"
    )
    put(
        ledger, Conversation(source=f"pwd={secret}", format="claude-code", turns=(turn,), key=f"pwd={secret}")
    )
    with ledger.writing() as connection:
        set_aside_line(connection, "/a", 1, f"bad: password={secret}")
    for file in tmp_path.iterdir():
        assert secret.encode() not in file.read_bytes()
    ledger.close()
    assert secret.encode() not in (tmp_path / "ledger.db").read_bytes()


def test_the_state_of_a_file_and_its_quarantined_lines_are_stored_and_removed(ledger: Ledger) -> None:
    state = FileState(path="/a", format="openai", identity="1", offset=5, line=1)
    with ledger.writing() as connection:
        assert file_state(connection, "/a") is None
        save_file_state(connection, state)
        save_file_state(connection, replace(state, offset=9))
        assert file_state(connection, "/a") == replace(state, offset=9)
        assert [set_aside_line(connection, "/a", 1, why) for why in ("x", "x", "y")] == [True, False, True]
        forget_set_aside(connection, "/a")
        assert connection.execute(select(schema.set_aside_lines)).all() == []
        assert ids_of_path(connection, "/a") == set()


def test_tools_are_stored_where_they_change_and_structure_with_its_turn(ledger: Ledger) -> None:
    tools = ({"type": "function", "function": {"name": "look"}},)
    structure = Structure(content="", calls=(ToolCall(name="look", arguments="{}", id="c1"),))

    def offered(conversation: Conversation, *each: tuple[Json, ...] | None) -> Conversation:
        turns = (replace(turn, tools=own) for turn, own in zip(conversation.turns, each, strict=True))
        return replace(conversation, turns=tuple(turns))

    first = offered(talk("a", "b"), None, tools)
    first = replace(first, turns=(first.turns[0], replace(first.turns[1], structure=structure)))
    put(ledger, first)
    added = put(ledger, offered(talk("a", "b", "c", "d", "e", "f"), None, tools, None, tools, None, ()))
    assert added.known and added.new_turns == 4
    with ledger.reading() as connection:
        stored = queries.turns(connection, added.conversation_id)
    assert [turn.tools for turn in stored] == [None, list(tools), None, None, None, []]
    assert structure_of(stored[1].structure) == structure


def test_a_conversation_that_was_stored_without_structure_is_recognised_with_it(ledger: Ledger) -> None:
    first = put(ledger, talk("a", "[tool call: look({})]"))
    call = Structure(content="", calls=(ToolCall(name="look", arguments="{}"),))
    again = talk("a", "[tool call: look({})]")
    again = replace(again, turns=(again.turns[0], replace(again.turns[1], structure=call)))
    assert put(ledger, again) == Added(conversation_id=first.conversation_id, new_turns=0, known=True)
