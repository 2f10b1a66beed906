"""Forgetting: what goes with a conversation, what stays, and that it does not come back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from night import AT, BASE, a_dream, a_pair, a_signal, a_trained_night, decide, sha, states
from sqlalchemy import Connection, func, select

from corpus.conversation import Conversation, Turn
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


def said(
    *texts: str, source: str = "anna", key: str = "", system: str = "", session: str = ""
) -> Conversation:
    """What this user and the assistant said, turn by turn."""
    turns = [Turn(role="system", text=system, line=1)] if system else []
    for number, text in enumerate(texts):
        role = ("user", "assistant")[number % 2]
        turns.append(Turn(role=role, text=text, line=number + 1, key=f"{key} {text}" if key else ""))
    return Conversation(source=source, format="openai", turns=tuple(turns), key=key, session=session)


def hear(connection: Connection, conversation: Conversation, path: str = ANNA) -> str:
    """Take a conversation in; returns its id, "" when it is passed over."""
    return conversations.add(connection, conversation, path).conversation_id


def a_lesson(conversation_id: str, source: str, request: str, **more: Any) -> list[Record]:
    """Return a correction at the third turn, with its episode, a proposed behaviour, a feeling and a fact."""
    signal = a_signal(2, id=f"s-{conversation_id}", conversation_id=conversation_id, source=source, **more)
    episode, told, fact = (f"{kind}-{conversation_id}" for kind in ("e", "told", "fact"))
    place = {"conversation_id": conversation_id, "position": 2, "source": source, "request": request}
    condition = f"the user asks for: {request}"
    proposal = {"proposed": True, "condition": condition, "examples": [request], "do": "please"}
    moods = {"tired": 0.9 if source == "anna" else 0.2}
    return [
        Node(id=LISTEN, kind="behaviour", name="listen", body={"proposed": False}, feelings=moods),
        Node(id=PROPOSED, kind="behaviour", name="proposed_say_please", body=proposal, weight=0.0),
        Node(id="tired", kind="feeling", name="tired", body={}, weight=0.0),
        Node(id=episode, kind="episode", name=f"{conversation_id}:1", body=place, feelings=moods),
        Node(id=told, kind="episode", name=f"{conversation_id}:2:told", body=place),
        Node(id=fact, kind="fact", name=f"{source}: {request}", body={"text": request}, weight=0.0),
        signal,
        Edge(kind="supports", tail_id=episode, head_id=LISTEN, signal_id=signal.id),
        Edge(kind="supports", tail_id=episode, head_id=PROPOSED, signal_id=signal.id),
        Edge(kind="shows", tail_id=episode, head_id="tired", signal_id=signal.id),
        Edge(kind="about", tail_id=fact, head_id=told),
    ]  # fmt: skip


def learn(
    connection: Connection, conversation_id: str, source: str, request: str = SECRET, **more: Any
) -> str:
    """The lesson in the graph, its extraction done; returns the episode."""
    graph.merge(connection, a_lesson(conversation_id, source, request, **more))  # type: ignore[arg-type]
    return f"e-{conversation_id}"


def dreamt(connection: Connection, name: str, night_id: str, **more: Any) -> list[Any]:
    """A dream with an attempt, and the pair made of it."""
    attempt = Attempt(
        id=f"a-{name}", dream_id=f"d-{name}", text=name, instructed=False, temperature=1.0, seed=1,
        checkpoint_id=BASE, passed=False, reason="",
    )  # fmt: skip
    save(connection, [a_dream(f"d-{name}", night_id, **more), attempt])
    return [a_pair(f"p-{name}", night_id, dream_id=f"d-{name}", source=str(more.get("source", "anna")))]


def two_people(connection: Connection) -> tuple[str, str]:
    """Anna and Boris each taught the same."""
    anna = hear(connection, said(SECRET, "Fine, at dawn.", "No: say please."))
    boris = hear(connection, said("Water the palm.", "Now.", "No: say please.", source="boris"), BORIS)
    learn(connection, anna, "anna")
    learn(connection, boris, "boris", "Water the palm.", strength=0.5)
    return anna, boris


def a_night_of_both(connection: Connection, *more: Any, replay: tuple[str, ...] = ()) -> str:
    """A night with a pair of each that was kept, and these; returns its update."""
    number = len(connection.execute(select(schema.nights.c.id)).all()) + 1
    night_id = f"n{number}"
    update = a_trained_night(connection, *more, replay=replay)
    assert update.night_id == night_id
    decide(connection, update, "keep")
    return update.id


def nothing_hangs(connection: Connection) -> None:
    assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []


def rows_with(connection: Connection, *words: str) -> list[str]:
    """The tables in which one of these words is; the digests of what was forgotten say nothing."""
    found = []
    for name, table in schema.metadata.tables.items():
        if name == "forgotten":
            continue
        rows = connection.execute(select(table)).all()
        if any(word in repr(tuple(row)) for row in rows for word in words):
            found.append(name)
    return found


def everything_but(connection: Connection, *names: str) -> dict[str, list[Any]]:
    """Every row of the other tables."""
    tables = schema.metadata.tables.items()
    return {
        name: list(connection.execute(select(table)).all()) for name, table in tables if name not in names
    }


# ---------------------------------------------------------------- what is meant


def test_a_name_is_a_source_or_a_conversation_or_a_log_and_is_told_as_what(connection: Connection) -> None:
    anna, boris = two_people(connection)
    more = hear(connection, said("Hello.", source="boris"), ANNA)
    for wanted, path, matched, ids in (
        ("anna", "/x", "source", {anna}),
        ("boris", "/x", "source", {boris, more}),
        (anna, "/x", "conversation", {anna}),
        (boris[:4], "/x", "conversation", {boris}),
        ("anna.jsonl", ANNA, "log", {anna, more}),
    ):
        found = look(connection, wanted, path)
        assert (found.matched, set(found.derived.conversations)) == (matched, ids), wanted
    hear(connection, said("Good evening.", source=boris[:6]))
    assert look(connection, boris[:6], "/x").matched == "source"


def test_what_is_unknown_or_means_more_than_one_thing_is_refused_in_words(connection: Connection) -> None:
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


def test_a_conversation_goes_with_all_that_was_derived_from_it_and_nothing_else_does(
    connection: Connection,
) -> None:
    boris = hear(connection, said("Water the palm.", "Now.", "No: say please.", source="boris"), BORIS)
    learn(connection, boris, "boris", "Water the palm.", strength=0.5)
    before = everything_but(connection, "forgotten", "events")
    anna = hear(connection, said(SECRET, "Fine, at dawn.", "No: say please."))
    learn(connection, anna, "anna", strength=0.8)
    found = forget(connection, "anna", "/x")
    # Weights, feelings and texts of nodes are as before, too.
    assert everything_but(connection, "forgotten", "events") == before
    removed = {"turns": 3, "signals": 1, "nodes": 3, "edges": 4, "work": 1}
    nothing = dict.fromkeys(("dreams", "attempts", "pairs", "update_pairs", "events"), 0)
    assert found.derived.counts() == {**removed, **nothing}
    assert found.updates == () and found.rollback_to is None
    assert rows_with(connection, SECRET, anna, "anna") == []
    nothing_hangs(connection)
    with pytest.raises(UnknownId, match="nothing is known of"):
        forget(connection, "anna", "/x")


def test_a_node_with_other_support_stays_with_the_words_of_the_others_only(connection: Connection) -> None:
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
    nothing_hangs(connection)


def test_a_fact_that_was_told_twice_stays_until_the_second_telling_goes(connection: Connection) -> None:
    first = hear(connection, said(SECRET, "Noted.", "Yes."))
    second = hear(connection, said("Again.", "Yes?", SECRET))
    learn(connection, first, "anna")
    told = Node(
        id="again", kind="episode", name=f"{second}:2:told", body={"conversation_id": second, "position": 2}
    )
    fact = f"fact-{first}"
    graph.merge(connection, [told, Edge(kind="about", tail_id=fact, head_id=told.id)])
    forget(connection, first, "/x")
    left = graph.get(connection, fact)
    assert left is not None and left.weight == 1.0
    forget(connection, second, "/x")
    assert connection.execute(select(schema.nodes.c.kind)).scalars().all() == ["behaviour"]


def test_dreams_attempts_and_pairs_go_with_what_they_grew_from(connection: Connection) -> None:
    anna, boris = two_people(connection)
    later = hear(connection, said("Sweep the hall.", "Done.", "No: say please."))
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
    found = forget(connection, anna, "/x")
    assert found.derived.dreams == ("d-lost", "d-mine", "d-mixed")
    assert found.derived.pairs == ("p-log", "p-lost", "p-mine", "p-mixed", "p-place")
    assert set(states(connection, "pairs")) == {"p-hers", "p-his", "p-declared", "p-other"}
    for table in (schema.dreams.c.id, schema.attempts.c.dream_id):
        assert set(connection.execute(select(table)).scalars()) == {"d-hers", "d-his", "d-declared"}
    assert set(states(connection, "signals")) == {f"s-{boris}", f"s-{later}"}
    nothing_hangs(connection)


def test_what_tells_of_it_in_events_and_errors_goes_as_well(connection: Connection) -> None:
    anna, boris = two_people(connection)
    for conversation_id in (anna, boris):
        note(connection, "extract", f"{conversation_id}:3", {"subject": f"{conversation_id}:3", "new": 1})
    note(connection, "failure", "dream", {"subject": "listen", "error": f"ValueError: {SECRET!r}"})
    note(connection, "failure", "dream", {"subject": "listen", "error": "ValueError: too long"})
    row = {"kind": "dream", "subject": "listen", "night_id": "n1", "state": "set_aside", "attempts": 3}
    connection.execute(schema.work.insert().values(**row, error=f"ValueError: {SECRET}"))
    found = forget(connection, anna, "/x")
    assert found.derived.counts()["events"] == 2 and found.derived.counts()["work"] == 1
    assert rows_with(connection, SECRET, anna) == []
    w, e = schema.work, schema.events
    assert connection.execute(select(w.c.error).where(w.c.kind == "dream")).scalar() == "forgotten"
    assert connection.execute(select(func.count()).where(e.c.kind == "failure")).scalar() == 1
    assert connection.execute(select(w.c.subject).where(w.c.kind == "extract")).scalars().all() == [
        f"{boris}:3"
    ]


def test_nothing_of_it_is_left_in_the_files_of_the_ledger(ledger: Ledger, tmp_path: Path) -> None:
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


def made(number: int) -> str:
    return sha(f"checkpoint {number}")


def test_the_updates_that_learnt_from_it_are_named_and_those_that_are_built_on_them(
    connection: Connection,
) -> None:
    four_nights(connection)
    found = look(connection, "anna", "/x")
    assert found.updates == (
        Touched(id="u1", state="kept", checkpoint=made(1), pairs=1, built_on=None),
        Touched(id="u2", state="kept", checkpoint=made(2), pairs=0, built_on="u1"),
        Touched(id="u3", state="kept", checkpoint=made(3), pairs=1, built_on=None),
        Touched(id="u4", state="kept", checkpoint=made(4), pairs=0, built_on="u1"),
    )
    assert found.rollback_to == BASE
    assert forget(connection, "anna", "/x") == found
    nothing_hangs(connection)


def test_what_was_undone_is_named_too_but_there_is_nothing_to_roll_back(connection: Connection) -> None:
    four_nights(connection)
    history.roll_back(connection, BASE, "by hand")
    found = forget(connection, "anna", "/x")
    undone = [(f"u{n}", "undone") for n in (1, 2, 3, 4)]
    assert [(update.id, update.state) for update in found.updates] == undone
    assert found.rollback_to is None


def test_the_way_back_leads_past_checkpoints_whose_files_were_given_up(connection: Connection) -> None:
    anna, _ = two_people(connection)
    decide(connection, a_trained_night(connection, a_pair("p-0", "?", source="boris")), "keep")
    update = a_trained_night(connection, a_pair("p-1", "n2", signal_id=f"s-{anna}"))
    decide(connection, update, "keep")
    assert look(connection, "anna", "/x").rollback_to == made(1)
    c = schema.checkpoints
    connection.execute(c.update().where(c.c.id == made(1)).values(pruned=AT))
    assert look(connection, "anna", "/x").rollback_to == BASE
    connection.execute(c.update().where(c.c.id == BASE).values(pruned=AT))
    assert look(connection, "anna", "/x").rollback_to is None


def test_a_rollback_with_it_sets_the_pairs_and_lessons_of_the_others_aside_for_a_retry(
    connection: Connection,
) -> None:
    four_nights(connection)
    found = forget(connection, "anna", "/x", roll_back=True)
    assert found.rollback_to == queries.active(connection).id == BASE
    assert states(connection, "updates") == dict.fromkeys(("u1", "u2", "u3", "u4"), "undone")
    assert states(connection, "pairs") == dict.fromkeys(("p-his", "p-2", "p-3", "p-4"), "undone")
    assert list(states(connection, "signals").values()) == ["undone"]
    history.begin_night(connection, seed=1, retry=True)
    assert set(states(connection, "pairs").values()) == {"new"}
    nothing_hangs(connection)


def test_a_rollback_later_undoes_the_lessons_of_others_that_were_learnt_beside_it(
    connection: Connection,
) -> None:
    """Boris's lesson made no pair: it was learnt by Anna's, of the same behaviour in the same night."""
    anna, boris = two_people(connection)
    update = a_trained_night(connection, a_pair("p-1", "n1", signal_id=f"s-{anna}"))
    decide(connection, update, "keep")
    forget(connection, "anna", "/x")
    assert states(connection, "signals") == {f"s-{boris}": "learnt"}
    history.roll_back(connection, BASE, "by hand")
    assert states(connection, "signals") == {f"s-{boris}": "undone"}


def test_an_update_keeps_its_row_and_why_says_how_many_of_its_pairs_were_forgotten(
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


def test_nothing_is_forgotten_while_a_night_may_be_learning_from_it(connection: Connection) -> None:
    anna, _ = two_people(connection)
    history.begin_night(connection, seed=1, retry=False)
    with pytest.raises(GateRefused, match="a night is running"):
        forget(connection, anna, "/x")
    assert SECRET in str(connection.execute(select(schema.turns.c.text)).all())


def test_a_night_after_it_hears_what_is_said_after_it(connection: Connection) -> None:
    """SQLite gives the ids of the newest turns out again, and they are the nights' cursors."""
    two_people(connection)
    anna = hear(connection, said("Hello.", "Hello.", "Bye."))
    night = history.begin_night(connection, seed=1, retry=False)
    history.close_night(connection, night_id=night)
    forget(connection, anna, "/x")
    hear(connection, said("Good evening.", source="carla"))
    night = history.begin_night(connection, seed=1, retry=False)
    assert report.night_report(connection, night, {}, {}).turns == 1


def test_work_on_it_that_ends_after_it_comes_to_nothing(connection: Connection) -> None:
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
    """Whether this is passed over."""
    return conversations.add(connection, said(*texts, **more), ANNA).forgotten


def test_what_was_forgotten_is_passed_over_also_shorter_longer_or_answered_otherwise(
    connection: Connection,
) -> None:
    hear(connection, said(SECRET, "Fine.", "Thanks."))
    forget(connection, "anna", "/x")
    assert again(connection, SECRET) and again(connection, SECRET, "Fine.")
    assert again(connection, SECRET, "Fine.", "Thanks.")
    assert again(connection, f" {SECRET} ", "Fine.", "Thanks.", "!")
    assert again(connection, SECRET, "Another answer.")
    assert rows_with(connection, SECRET) == []
    assert not again(connection, "Something else.")
    assert not again(connection, SECRET, source="boris")  # his own words, in his own log


def test_other_conversations_that_begin_alike_are_not_passed_over(connection: Connection) -> None:
    system = "You are a gardener."
    kept = hear(connection, said("Hello.", "Hello!", "Water the palm.", system=system))
    gone = hear(connection, said("Hello.", "Hello!", SECRET, system=system))
    found = forget(connection, gone, "/x")
    assert found.derived.alike == (kept,)
    assert again(connection, "Hello.", "Hello!", SECRET, "And now?", system=system)
    assert not again(connection, "Hello.", "Hello!", "Water the palm.", "Done.", system=system)
    assert not again(connection, "Hello.", "Hello!", "Sweep the hall.", system=system)
    forget(connection, "anna", "/x")
    assert again(connection, "Hello.", "Hello!", system=system)
    assert not again(connection, "Good evening.", system=system)  # the prompt of all is no conversation


def test_a_conversation_whose_turns_arrive_one_by_one_is_passed_over_as_a_whole(
    connection: Connection,
) -> None:
    hear(connection, said(SECRET, "Fine.", key="k1"))
    hear(connection, said("Hello.", "Hello!", key="k2"))
    forget(connection, "anna", "/x")
    assert again(connection, SECRET, "Fine.", key="k1") and again(connection, "And now?", key="k1")
    assert not again(connection, SECRET, key="k3")
    assert rows_with(connection, "And now?") == []


def test_forgetting_the_same_twice_over_keeps_one_mark_a_turn(connection: Connection) -> None:
    hear(connection, said("Hello.", "Hello!", key="k1"))
    first: Forgetting = forget(connection, "anna", "/x")
    f = schema.forgotten
    assert set(connection.execute(select(f.c.chain)).scalars()) == first.derived.tombstones
    assert len(first.derived.tombstones) == 3
    connection.execute(f.delete().where(f.c.chain == conversations.key_tombstone("openai", "k1")))
    hear(connection, said("Hello.", "Hello!", key="k1"))  # a user may take it back by hand
    assert forget(connection, "anna", "/x").derived.tombstones == first.derived.tombstones
    nothing_hangs(connection)
