"""Forgetting: what is removed with a conversation, what stays, and that it does not come back."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from night import AT, BASE, a_dream, a_pair, a_signal, a_trained_night, decide, sha, states
from sqlalchemy import Connection, func, select

from corpus.conversation import Conversation, Structure, ToolCall, Turn
from corpus.errors import GateRefused, UnknownId
from store import graph, queries
from store.conversations import conversations
from store.conversations.forget import Forgetting, Touched, forget, look
from store.ledger import schema
from store.ledger.db import Ledger, database_url
from store.ledger.records import Attempt, Edge, Node, Record, identity, save
from store.nights import history, report
from store.nights.results import WhyUpdate
from store.queue.outcome import Outcome, commit, note
from store.queue.work import Work, fail, lease

SECRET = "the spare key lies under the third fern"
ANNA, BORIS = "/logs/anna.jsonl", "/logs/boris.jsonl"
LISTEN = identity("behaviour", "listen")
PROPOSED = identity("behaviour", "proposed_say_please")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(database_url(tmp_path))
    with ledger.writing() as connection:
        history.add_base(connection, BASE, sha("base weights"))
    yield ledger
    ledger.close()


@pytest.fixture
def connection(ledger: Ledger) -> Iterator[Connection]:
    with ledger.writing() as writing:
        yield writing


def talk(
    *texts: str, source: str = "anna", key: str = "", system: str = "", session: str = ""
) -> Conversation:
    """Return a conversation of this user and the assistant, turn by turn."""
    turns = [Turn(role="system", text=system, line=1)] if system else []
    for number, text in enumerate(texts):
        role = ("user", "assistant")[number % 2]
        turns.append(Turn(role=role, text=text, line=number + 1, key=f"{key} {text}" if key else ""))
    return Conversation(source=source, format="openai", turns=tuple(turns), key=key, session=session)


def hear(connection: Connection, conversation: Conversation, path: str = ANNA) -> str:
    """Store a conversation; return its id, or "" where it is passed over."""
    return conversations.add(connection, conversation, path).conversation_id


def a_lesson(conversation_id: str, source: str, request: str, **more: Any) -> list[Record]:
    """Return a correction at the third turn, with its episode, a proposed behaviour, a feeling and a fact."""
    signal = a_signal(2, id=f"s-{conversation_id}", conversation_id=conversation_id, source=source, **more)
    episode, statement, fact = (f"{kind}-{conversation_id}" for kind in ("e", "told", "fact"))
    place = {"conversation_id": conversation_id, "position": 2, "source": source, "request": request}
    condition = f"the user asks for: {request}"
    proposal = {"proposed": True, "condition": condition, "examples": [request], "do": "please"}
    moods = {"tired": 0.9 if source == "anna" else 0.2}
    return [
        Node(id=LISTEN, kind="behaviour", name="listen", body={"proposed": False}, feelings=moods),
        Node(id=PROPOSED, kind="behaviour", name="proposed_say_please", body=proposal, weight=0.0),
        Node(id="tired", kind="feeling", name="tired", body={}, weight=0.0),
        Node(id=episode, kind="episode", name=f"{conversation_id}:1", body=place, feelings=moods),
        Node(id=statement, kind="episode", name=f"{conversation_id}:2:told", body=place),
        Node(id=fact, kind="fact", name=f"{source}: {request}", body={"text": request}, weight=0.0),
        signal,
        Edge(kind="supports", tail_id=episode, head_id=LISTEN, signal_id=signal.id),
        Edge(kind="supports", tail_id=episode, head_id=PROPOSED, signal_id=signal.id),
        Edge(kind="shows", tail_id=episode, head_id="tired", signal_id=signal.id),
        Edge(kind="about", tail_id=fact, head_id=statement),
    ]  # fmt: skip


def learn(
    connection: Connection, conversation_id: str, source: str, request: str = SECRET, **more: Any
) -> str:
    """Merge the lesson into the graph; return its episode."""
    graph.merge(connection, a_lesson(conversation_id, source, request, **more))  # type: ignore[arg-type]
    return f"e-{conversation_id}"


def dreamt(connection: Connection, name: str, night_id: str, **more: Any) -> list[Any]:
    """Save a dream with an attempt; return the pair made of it."""
    attempt = Attempt(
        id=f"a-{name}", dream_id=f"d-{name}", text=name, instructed=False, temperature=1.0, seed=1,
        checkpoint_id=BASE, passed=False, reason="",
    )  # fmt: skip
    save(connection, [a_dream(f"d-{name}", night_id, **more), attempt])
    return [a_pair(f"p-{name}", night_id, dream_id=f"d-{name}", source=str(more.get("source", "anna")))]


def two_people(connection: Connection) -> tuple[str, str]:
    """Have Anna and Boris each teach the same behaviour."""
    anna = hear(connection, talk(SECRET, "Fine, at dawn.", "No: say please."))
    boris = hear(connection, talk("Water the palm.", "Now.", "No: say please.", source="boris"), BORIS)
    learn(connection, anna, "anna")
    learn(connection, boris, "boris", "Water the palm.", strength=0.5)
    return anna, boris


def a_night_of_both(connection: Connection, *more: Any, replay: tuple[str, ...] = ()) -> str:
    """Make a kept night that also trains on these pairs; return its update."""
    number = len(connection.execute(select(schema.nights.c.id)).all()) + 1
    night_id = f"n{number}"
    update = a_trained_night(connection, *more, replay=replay)
    assert update.night_id == night_id
    decide(connection, update, "keep")
    return update.id


def assert_references_hold(connection: Connection) -> None:
    assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []


def rows_with(connection: Connection, *words: str) -> list[str]:
    """Return the tables that hold one of these words; the tombstones hold only digests."""
    tables = []
    for name, table in schema.metadata.tables.items():
        if name == "forgotten":
            continue
        rows = connection.execute(select(table)).all()
        if any(word in repr(tuple(row)) for row in rows for word in words):
            tables.append(name)
    return tables


def everything_but(connection: Connection, *names: str) -> dict[str, list[Any]]:
    """Return every row of the other tables."""
    tables = schema.metadata.tables.items()
    return {
        name: list(connection.execute(select(table)).all()) for name, table in tables if name not in names
    }


# ---------------------------------------------------------------- what is meant


def test_a_name_matches_a_source_a_conversation_or_a_log_and_the_result_says_which(
    connection: Connection,
) -> None:
    anna, boris = two_people(connection)
    more = hear(connection, talk("Hello.", source="boris"), ANNA)
    for wanted, path, matched, ids in (
        ("anna", "/x", "source", {anna}),
        ("boris", "/x", "source", {boris, more}),
        (anna, "/x", "conversation", {anna}),
        (boris[:4], "/x", "conversation", {boris}),
        ("anna.jsonl", ANNA, "log", {anna, more}),
    ):
        forgotten = look(connection, wanted, path)
        assert (forgotten.matched, set(forgotten.derived.conversations)) == (matched, ids), wanted
    hear(connection, talk("Good evening.", source=boris[:6]))
    assert look(connection, boris[:6], "/x").matched == "source"


def test_an_unknown_or_ambiguous_name_is_refused_with_the_reason(connection: Connection) -> None:
    anna, boris = two_people(connection)
    for wanted in ("nobody", "", "%", "____", anna[:3]):
        with pytest.raises(UnknownId, match="nothing is known of") as refused:
            forget(connection, wanted, "/x")
        assert "nightschool ledger conversations" in str(refused.value)
    c = schema.conversations
    twin = {"id": f"{anna[:8]}ffffffff", "tail": "other", "source": "x", "format": "openai", "key": ""}
    connection.execute(c.insert().values(**twin, at=AT, path="/other"))
    for wanted, path in ((anna[:8], "/x"), (boris[:5], ANNA)):
        with pytest.raises(UnknownId, match="means more than one thing"):
            forget(connection, wanted, path)
    assert look(connection, anna, ANNA).derived.conversations == (anna,)  # whole, it is clear
    assert connection.execute(select(func.count()).select_from(c)).scalar() == 3


# ---------------------------------------------------------------- what goes


def test_a_conversation_is_removed_with_everything_derived_from_it_and_nothing_else(
    connection: Connection,
) -> None:
    boris = hear(connection, talk("Water the palm.", "Now.", "No: say please.", source="boris"), BORIS)
    learn(connection, boris, "boris", "Water the palm.", strength=0.5)
    before = everything_but(connection, "forgotten", "events")
    anna = hear(connection, talk(SECRET, "Fine, at dawn.", "No: say please."))
    learn(connection, anna, "anna", strength=0.8)
    forgotten = forget(connection, "anna", "/x")
    # Weights, feelings and texts of nodes are as before, too.
    assert everything_but(connection, "forgotten", "events") == before
    removed = {"turns": 3, "signals": 1, "nodes": 3, "edges": 4, "work": 1}
    nothing = dict.fromkeys(("dreams", "attempts", "pairs", "update_pairs", "events"), 0)
    assert forgotten.derived.counts() == {**removed, **nothing}
    assert forgotten.updates == () and forgotten.rollback_to is None
    assert rows_with(connection, SECRET, anna, "anna") == []
    assert_references_hold(connection)
    with pytest.raises(UnknownId, match="nothing is known of"):
        forget(connection, "anna", "/x")


def test_a_node_with_other_support_stays_and_loses_the_forgotten_words(connection: Connection) -> None:
    anna, boris = two_people(connection)
    before = graph.get(connection, PROPOSED), graph.get(connection, LISTEN), graph.get(connection, "tired")
    assert all(before) and SECRET in str(before[0])
    forget(connection, anna, "/x")
    proposed, listen, tired = (graph.get(connection, node) for node in (PROPOSED, LISTEN, "tired"))
    assert proposed is not None and listen is not None and tired is not None
    assert proposed.body["condition"] == "the user asks for: Water the palm."
    assert proposed.body["examples"] == ["Water the palm."] and proposed.weight == tired.weight == 0.5
    assert listen.weight == 1.5 and listen.feelings == {"tired": 0.2}
    forget(connection, boris, "/x")
    left = {node.node.name for node in graph.behaviours(connection)}
    assert left == {"listen"}  # a declared behaviour needs no support
    assert graph.get(connection, "tired") is None
    assert graph.get(connection, LISTEN) == Node(
        id=LISTEN, kind="behaviour", name="listen", body={"proposed": False}, feelings={}, weight=1.0
    )
    assert_references_hold(connection)


def test_a_fact_stated_twice_stays_until_the_second_statement_is_forgotten(connection: Connection) -> None:
    first = hear(connection, talk(SECRET, "Noted.", "Yes."))
    second = hear(connection, talk("Again.", "Yes?", SECRET))
    learn(connection, first, "anna")
    statement = Node(
        id="again", kind="episode", name=f"{second}:2:told", body={"conversation_id": second, "position": 2}
    )
    fact = f"fact-{first}"
    graph.merge(connection, [statement, Edge(kind="about", tail_id=fact, head_id=statement.id)])
    forget(connection, first, "/x")
    left = graph.get(connection, fact)
    assert left is not None and left.weight == 1.0
    forget(connection, second, "/x")
    assert connection.execute(select(schema.nodes.c.kind)).scalars().all() == ["behaviour"]


def test_dreams_attempts_and_pairs_are_removed_with_their_origin(connection: Connection) -> None:
    anna, boris = two_people(connection)
    later = hear(connection, talk("Sweep the hall.", "Done.", "No: say please."))
    mine, his, hers = f"e-{anna}", f"e-{boris}", learn(connection, later, "anna", "Sweep the hall.")
    night = history.begin_night(connection, seed=1, retry=False)
    pairs = [
        *dreamt(connection, "mine", night, nodes=[mine]),
        *dreamt(connection, "mixed", night, nodes=[his, LISTEN, mine], source="boris"),
        *dreamt(connection, "lost", night, nodes=[LISTEN]),  # of anna, and nobody knows which conversation
        *dreamt(connection, "hers", night, nodes=[hers]),
        *dreamt(connection, "his", night, nodes=[his], source="boris"),
        *dreamt(connection, "declared", night, nodes=[LISTEN], source=""),
        a_pair("p-log", night, signal_id=f"s-{anna}"),
        a_pair("p-place", night, chosen_from="attempt:x", rejected_from=f"log:{anna}:2"),
        a_pair("p-other", night, signal_id=f"s-{later}", chosen_from=f"log:{later}:2"),
    ]
    save(connection, pairs)
    history.close_night(connection, night_id=night)
    forgotten = forget(connection, anna, "/x")
    assert forgotten.derived.dreams == ("d-lost", "d-mine", "d-mixed")
    assert forgotten.derived.pairs == ("p-log", "p-lost", "p-mine", "p-mixed", "p-place")
    assert set(states(connection, "pairs")) == {"p-hers", "p-his", "p-declared", "p-other"}
    for table in (schema.dreams.c.id, schema.attempts.c.dream_id):
        assert set(connection.execute(select(table)).scalars()) == {"d-hers", "d-his", "d-declared"}
    assert set(states(connection, "signals")) == {f"s-{boris}", f"s-{later}"}
    assert_references_hold(connection)


def test_events_and_errors_that_quote_it_are_removed(connection: Connection) -> None:
    anna, boris = two_people(connection)
    for conversation_id in (anna, boris):
        note(connection, "extract", f"{conversation_id}:3", {"subject": f"{conversation_id}:3", "new": 1})
    note(connection, "failure", "dream", {"subject": "listen", "error": f"ValueError: {SECRET!r}"})
    note(connection, "failure", "dream", {"subject": "listen", "error": "ValueError: too long"})
    row = {"kind": "dream", "subject": "listen", "night_id": "n1", "state": "set_aside", "attempts": 3}
    connection.execute(schema.work.insert().values(**row, error=f"ValueError: {SECRET}"))
    forgotten = forget(connection, anna, "/x")
    assert forgotten.derived.counts()["events"] == 2 and forgotten.derived.counts()["work"] == 1
    assert rows_with(connection, SECRET, anna) == []
    w, e = schema.work, schema.events
    assert connection.execute(select(w.c.error).where(w.c.kind == "dream")).scalar() == "forgotten"
    assert connection.execute(select(func.count()).where(e.c.kind == "failure")).scalar() == 1
    assert connection.execute(select(w.c.subject).where(w.c.kind == "extract")).scalars().all() == [
        f"{boris}:3"
    ]


def test_the_files_of_the_ledger_no_longer_contain_it(ledger: Ledger, tmp_path: Path) -> None:
    with ledger.writing() as connection:
        two_people(connection)
    with ledger.engine.connect():  # as in a service, whose connections keep the log of writes there
        with ledger.writing() as connection:
            forget(connection, "anna", "/x")
        files = sorted(tmp_path.glob("ledger.db*"))
        assert any(SECRET.encode() in path.read_bytes() for path in files)  # in the log of writes
        assert ledger.wipe()
        assert not any(SECRET.encode() in path.read_bytes() for path in files)
    assert any(b"Water the palm." in path.read_bytes() for path in files)


# ---------------------------------------------------------------- the weights


def four_nights(connection: Connection) -> tuple[str, str]:
    """Make four kept updates: Anna's pair is new in the first and replayed in the third, Boris is in all."""
    anna, boris = two_people(connection)
    first = a_trained_night(connection)
    mine = dreamt(connection, "mine", "n1", nodes=[f"e-{anna}"])
    his = dreamt(connection, "his", "n1", nodes=[f"e-{boris}"], source="boris")
    save(connection, [*mine, *his])
    for pair in (*mine, *his):
        join(connection, "u1", pair.id)
    decide(connection, first, "keep")
    decide(connection, a_trained_night(connection, a_pair("p-2", "?", source="boris")), "keep")
    decide(
        connection,
        a_trained_night(connection, a_pair("p-3", "?", source="boris"), replay=("p-mine",)),
        "keep",
    )
    decide(connection, a_trained_night(connection, a_pair("p-4", "?", source="boris")), "keep")
    return anna, boris


def join(connection: Connection, update_id: str, pair_id: str) -> None:
    connection.execute(
        schema.update_pairs.insert().values(update_id=update_id, pair_id=pair_id, replay=False)
    )


def checkpoint_of(number: int) -> str:
    return sha(f"checkpoint {number}")


def test_the_updates_that_learnt_from_it_and_those_built_on_them_are_named(
    connection: Connection,
) -> None:
    four_nights(connection)
    forgotten = look(connection, "anna", "/x")
    assert forgotten.updates == (
        Touched(id="u1", state="kept", checkpoint=checkpoint_of(1), pairs=1, built_on=None),
        Touched(id="u2", state="kept", checkpoint=checkpoint_of(2), pairs=0, built_on="u1"),
        Touched(id="u3", state="kept", checkpoint=checkpoint_of(3), pairs=1, built_on=None),
        Touched(id="u4", state="kept", checkpoint=checkpoint_of(4), pairs=0, built_on="u1"),
    )
    assert forgotten.rollback_to == BASE
    assert forget(connection, "anna", "/x") == forgotten
    assert_references_hold(connection)


def test_undone_updates_are_named_and_need_no_rollback(connection: Connection) -> None:
    four_nights(connection)
    history.roll_back(connection, BASE, "by hand")
    forgotten = forget(connection, "anna", "/x")
    undone = [(f"u{n}", "undone") for n in (1, 2, 3, 4)]
    assert [(update.id, update.state) for update in forgotten.updates] == undone
    assert forgotten.rollback_to is None


def test_the_rollback_target_is_never_a_pruned_checkpoint(connection: Connection) -> None:
    anna, _ = two_people(connection)
    decide(connection, a_trained_night(connection, a_pair("p-0", "?", source="boris")), "keep")
    update = a_trained_night(connection, a_pair("p-1", "n2", signal_id=f"s-{anna}"))
    decide(connection, update, "keep")
    assert look(connection, "anna", "/x").rollback_to == checkpoint_of(1)
    c = schema.checkpoints
    connection.execute(c.update().where(c.c.id == checkpoint_of(1)).values(pruned=AT))
    assert look(connection, "anna", "/x").rollback_to == BASE
    connection.execute(c.update().where(c.c.id == BASE).values(pruned=AT))
    assert look(connection, "anna", "/x").rollback_to is None


def test_with_a_rollback_the_pairs_and_lessons_of_others_wait_for_a_retry(
    connection: Connection,
) -> None:
    four_nights(connection)
    forgotten = forget(connection, "anna", "/x", roll_back=True)
    assert forgotten.rollback_to == queries.active(connection).id == BASE
    assert states(connection, "updates") == dict.fromkeys(("u1", "u2", "u3", "u4"), "undone")
    assert states(connection, "pairs") == dict.fromkeys(("p-his", "p-2", "p-3", "p-4"), "undone")
    assert list(states(connection, "signals").values()) == ["undone"]
    history.begin_night(connection, seed=1, retry=True)
    assert set(states(connection, "pairs").values()) == {"new"}
    assert_references_hold(connection)


def test_a_later_rollback_undoes_the_lessons_of_others_from_the_same_update(
    connection: Connection,
) -> None:
    """Boris's lesson made no pair: Anna's pair of the same behaviour and night taught it."""
    anna, boris = two_people(connection)
    update = a_trained_night(connection, a_pair("p-1", "n1", signal_id=f"s-{anna}"))
    decide(connection, update, "keep")
    forget(connection, "anna", "/x")
    assert states(connection, "signals") == {f"s-{boris}": "learnt"}
    history.roll_back(connection, BASE, "by hand")
    assert states(connection, "signals") == {f"s-{boris}": "undone"}


def test_an_update_keeps_its_row_and_why_counts_its_forgotten_pairs(
    connection: Connection,
) -> None:
    four_nights(connection)
    u = schema.updates
    before = connection.execute(select(u)).all()
    forget(connection, "anna", "/x")
    assert connection.execute(select(u)).all() == before
    first, second = (report.why(connection, update_id) for update_id in ("u1", "u2"))
    assert isinstance(first, WhyUpdate) and isinstance(second, WhyUpdate)
    assert first.update.forgotten == 1 and [pair.id for pair in first.pairs] == ["p-his"]
    assert second.update.forgotten == 0
    with pytest.raises(UnknownId):
        report.why(connection, "p-mine")


def test_nothing_is_forgotten_while_a_night_runs(connection: Connection) -> None:
    anna, _ = two_people(connection)
    history.begin_night(connection, seed=1, retry=False)
    with pytest.raises(GateRefused, match="a night is running"):
        forget(connection, anna, "/x")
    assert SECRET in str(connection.execute(select(schema.turns.c.text)).all())


def test_a_night_after_a_forget_reads_the_turns_that_follow_it(connection: Connection) -> None:
    """SQLite reuses the ids of the newest turns, and the cursors of nights are such ids."""
    two_people(connection)
    anna = hear(connection, talk("Hello.", "Hello.", "Bye."))
    night = history.begin_night(connection, seed=1, retry=False)
    history.close_night(connection, night_id=night)
    forget(connection, anna, "/x")
    hear(connection, talk("Good evening.", source="carla"))
    night = history.begin_night(connection, seed=1, retry=False)
    assert report.night_report(connection, night, {}, {}).turns == 1


def test_work_that_ends_after_its_conversation_was_forgotten_has_no_effect(connection: Connection) -> None:
    anna, _ = two_people(connection)
    item = lease(connection, "me")
    assert item == Work(id=1, kind="extract", subject=f"{anna}:3", night_id="", attempts=0)
    forget(connection, anna, "/x")
    records = tuple(a_lesson(anna, "anna", SECRET))
    commit(connection, item, Outcome(records=records), [("extract", "more")])
    assert rows_with(connection, SECRET, "more") == []
    fail(connection, item, SECRET)
    assert rows_with(connection, SECRET) == []


# ---------------------------------------------------------------- it does not come back


def again(connection: Connection, *texts: str, **more: str) -> bool:
    """Return whether this conversation is passed over."""
    return conversations.add(connection, talk(*texts, **more), ANNA).forgotten


def test_a_forgotten_conversation_is_passed_over_in_every_length_and_with_other_answers(
    connection: Connection,
) -> None:
    hear(connection, talk(SECRET, "Fine.", "Thanks."))
    forget(connection, "anna", "/x")
    assert again(connection, SECRET) and again(connection, SECRET, "Fine.")
    assert again(connection, SECRET, "Fine.", "Thanks.")
    assert again(connection, f" {SECRET} ", "Fine.", "Thanks.", "!")
    assert again(connection, SECRET, "Another answer.")
    assert rows_with(connection, SECRET) == []
    assert not again(connection, "Something else.")
    assert not again(connection, SECRET, source="boris")  # his own words, in his own log


def test_other_conversations_with_the_same_beginning_are_not_passed_over(connection: Connection) -> None:
    system = "You are a gardener."
    other = hear(connection, talk("Hello.", "Hello!", "Water the palm.", system=system))
    secret = hear(connection, talk("Hello.", "Hello!", SECRET, system=system))
    forgotten = forget(connection, secret, "/x")
    assert forgotten.derived.alike == (other,)
    assert again(connection, "Hello.", "Hello!", SECRET, "And now?", system=system)
    assert not again(connection, "Hello.", "Hello!", "Water the palm.", "Done.", system=system)
    assert not again(connection, "Hello.", "Hello!", "Sweep the hall.", system=system)
    forget(connection, "anna", "/x")
    assert again(connection, "Hello.", "Hello!", system=system)
    assert not again(connection, "Good evening.", system=system)  # the prompt of all is no conversation


def test_a_forgotten_conversation_is_passed_over_turn_by_turn(
    connection: Connection,
) -> None:
    hear(connection, talk(SECRET, "Fine.", key="k1"))
    hear(connection, talk("Hello.", "Hello!", key="k2"))
    forget(connection, "anna", "/x")
    assert again(connection, SECRET, "Fine.", key="k1") and again(connection, "And now?", key="k1")
    assert not again(connection, SECRET, key="k3")
    assert rows_with(connection, "And now?") == []


def test_forgetting_the_same_twice_keeps_one_tombstone_for_each_turn(connection: Connection) -> None:
    hear(connection, talk("Hello.", "Hello!", key="k1"))
    first: Forgetting = forget(connection, "anna", "/x")
    f = schema.forgotten
    assert set(connection.execute(select(f.c.chain)).scalars()) == first.derived.tombstones
    assert len(first.derived.tombstones) == 3
    connection.execute(f.delete().where(f.c.chain == conversations.key_tombstone("openai", "k1")))
    hear(connection, talk("Hello.", "Hello!", key="k1"))  # a user may take it back by hand
    assert forget(connection, "anna", "/x").derived.tombstones == first.derived.tombstones
    assert_references_hold(connection)


def test_the_words_of_tools_and_contexts_go_with_their_conversation(connection: Connection) -> None:
    tool = {"type": "function", "function": {"name": "look", "description": SECRET}}
    call = Structure(content=SECRET, calls=(ToolCall(name="look", arguments=f'{{"at": "{SECRET}"}}'),))
    heard = talk("Look.", "Fine.", "No: say please.")
    answer = replace(heard.turns[1], structure=call, tools=(tool,))
    anna = hear(connection, replace(heard, turns=(heard.turns[0], answer, heard.turns[2])))
    episode = learn(connection, anna, "anna", "Look.")
    context = [{"role": "system", "content": SECRET}, {"role": "user", "content": "Look."}]
    connection.execute(
        schema.nodes.update().where(schema.nodes.c.id == episode).values(body={"context": context})
    )
    night_id = history.begin_night(connection, seed=1, retry=False)
    dreamt(connection, "1", night_id, nodes=[episode], messages=context, tools=[tool])
    history.close_night(connection, night_id=night_id)
    forget(connection, "anna", "")
    left = [str(connection.execute(select(table)).all()) for table in schema.metadata.sorted_tables]
    assert not [rows for rows in left if SECRET in rows]
