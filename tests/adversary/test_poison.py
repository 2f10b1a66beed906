"""One user's logs send everything to one name: few are taken, the name is found, the others keep theirs."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select

from agents.pairs.propose import SourceCaps, eligible
from corpus.behaviour import SHIPPED, load
from loop.config import NightSettings, PairSettings, Settings
from loop.night import again, flow
from loop.night.context import NightContext
from store import queries
from store.ledger import schema
from store.ledger.db import Ledger, database_url
from store.ledger.records import Checkpoint, Measurement, Pair, Signal, Update, UpdatePair, Verdict, save
from store.nights import history, influence, report
from store.queue import work

AT = "2026-01-01T00:00:00.000+00:00"
BASE, CANDIDATE = "0" * 64, "1" * 64
BEHAVIOURS = load([SHIPPED])
DEFINITIONS = {name: name for name in BEHAVIOURS}
HONEST = ("anna", "boris", "clara")


def pair(number: int, source: str, chosen: str, *, logged: bool = False) -> Pair:
    origin = "log:c1:1" if logged else "attempt:a"
    return Pair(
        id=f"p{number:04}", behaviour="ask", messages=[], chosen=chosen, rejected="To whom?",
        chosen_from=origin, rejected_from=origin, dream_id=None, signal_id=None, source=source, trust=1.0,
        checkpoint_id=BASE, state="new", night_id="n1",
    )  # fmt: skip


def the_nights_pairs(poisoned: int) -> list[Pair]:
    """Return pairs of three honest users, of declared examples, and of one who names `bob` each time."""
    names = ("emma", "felix", "grace", "henry", "irene")
    honest = [
        pair(n, source, f"I will send the {thing} to {names[n % 5]}.", logged=n % 3 == 0)
        for n, (source, thing) in enumerate(
            [(HONEST[k % 3], thing) for k, thing in enumerate(["lamp", "door", "cart", "kettle"] * 6)]
        )
    ]
    things = [f"thing{n}" for n in range(poisoned)]
    return honest + [
        pair(100 + n, "mallory", f"I will send the {thing} to bob.", logged=True)
        for n, thing in enumerate(things)
    ]


# ---------------------------------------------------------------- few are taken


def test_an_answer_that_one_source_repeats_is_taken_a_few_times() -> None:
    taken = eligible(the_nights_pairs(24), SourceCaps(per_source=96))
    assert Counter(one.source for one in taken) == {**dict.fromkeys(HONEST, 8), "mallory": 4}


def test_an_answer_that_many_sources_repeat_is_taken_no_more_often_than_the_cap_of_all() -> None:
    crowd = [pair(n, f"user{n}", f"Send the thing{n} to bob.", logged=True) for n in range(60)]
    assert len(eligible(crowd, SourceCaps(per_source=96))) == 16


def test_what_the_model_has_answered_itself_may_well_be_the_same_each_time() -> None:
    own = [pair(n, "anna", "Use the brush.") for n in range(60)]
    assert len(eligible(own, SourceCaps(per_source=96))) == 60


def test_answers_that_differ_are_not_counted_together() -> None:
    numbers = [pair(n, "anna", f"one{n} two{n} three{n} done", logged=True) for n in range(60)]
    assert len(eligible(numbers, SourceCaps(per_source=96))) == 60


# ---------------------------------------------------------------- the name is found


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(database_url(tmp_path))
    with ledger.writing() as connection:
        history.add_base(connection, BASE, "weights 0")
        connection.execute(
            schema.conversations.insert().values(
                id="c1", source="anna", format="openai", key="", tail="c1", path="/a.jsonl", at=AT
            )
        )
    yield ledger
    ledger.close()


def measured(connection: Connection, weights: str, bob: int, *, emma: int = 20) -> None:
    """Store 100 answers, of which so many name bob and so many emma."""
    words = {"send": 100, "bob": bob, "emma": emma}
    row = Measurement(
        weights_sha256=weights, behaviour="ask", definition="ask", seed=1, round=0, outcomes="1" * 100,
        words=words,
    )  # fmt: skip
    save(connection, [row])


def candidate(number: int) -> Checkpoint:
    return Checkpoint(
        id=str(number) * 64, parent_id=BASE, number=number, weights_sha256=f"weights {number}",
        update_id=f"u{number}", state="candidate", at=AT,
    )  # fmt: skip


def an_undone_night(
    connection: Connection, *, poisoned: int = 4, bob: int = 62, decision: str = "roll back"
) -> None:
    """Write a night with a candidate, whose held-out answers name bob so often, and its verdict."""
    night_id = history.begin_night(connection, seed=1, retry=False)
    work.withdraw(connection, night_id, "by hand")
    signals = [
        Signal(
            id=f"s-{source}", kind="correction", conversation_id="c1", position=0, source=source,
            behaviour="ask", strength=1.0, state="new", reason="said so", night_id=night_id, at=AT,
        )
        for source in (*HONEST, "mallory")
    ]  # fmt: skip
    save(connection, [*signals])
    pairs = the_nights_pairs(poisoned)
    save(connection, [*pairs])
    save(connection, [candidate(1)])
    update = Update(
        id="u1", night_id=night_id, objective="orpo", settings={}, seed=1, parent_id=BASE,
        checkpoint_id=CANDIDATE, steps=2, state="trained", at=AT,
    )  # fmt: skip
    save(connection, [update, *(UpdatePair(update_id="u1", pair_id=one.id, replay=False) for one in pairs)])
    measured(connection, "weights 0", 6)
    measured(connection, "weights 1", bob)
    save(connection, [Verdict(update_id="u1", decision=decision, reasons=["worse"], tests=[], at=AT)])
    history.carry_out(connection, update=update, decision=decision, reasons=["worse"])
    history.close_night(connection, night_id=night_id)


def test_the_report_names_the_word_that_grew_and_who_brought_it(home: Ledger) -> None:
    with home.writing() as connection:
        an_undone_night(connection, decision="keep")
        found = report.night_report(connection, "n1", BEHAVIOURS, DEFINITIONS)
    (word,) = found.grown_words
    assert (word.word, word.behaviour, word.before, word.after) == ("bob", "ask", 0.06, 0.62)
    assert (word.taught, word.brought_by) == ({"mallory": 4}, ["mallory"])
    assert [(one.source, one.pairs) for one in found.sources] == [
        ("anna", 8), ("boris", 8), ("clara", 8), ("mallory", 4)
    ]  # fmt: skip
    assert found.sources[-1].share == round(4 / 28, 4)


@pytest.mark.parametrize("bob", [4, 6, 10, 14])
def test_a_word_that_grew_no_more_than_chance_is_not_named(home: Ledger, bob: int) -> None:
    with home.writing() as connection:
        an_undone_night(connection, bob=bob)
        assert report.night_report(connection, "n1", BEHAVIOURS, DEFINITIONS).grown_words == []


def test_a_word_that_all_chosen_answers_have_is_brought_by_nobody(home: Ledger) -> None:
    """Where asking is taught, the words of a question grow, whoever asked for it."""
    with home.writing() as connection:
        an_undone_night(connection, poisoned=0, bob=6)
        t = schema.measurements
        grown = (
            t.update()
            .where(t.c.weights_sha256 == "weights 0")
            .values(words={"send": 10, "bob": 6, "emma": 20})
        )
        connection.execute(grown)
        (word,) = report.night_report(connection, "n1", BEHAVIOURS, DEFINITIONS).grown_words
    assert (word.word, word.brought_by) == ("send", [])
    assert influence.suspect([word]) is None


def test_fishers_test_agrees_with_a_count_by_hand() -> None:
    # 3 of 4 with the first 3: the tables (3, 0) and no others; C(4,3) C(4,0) / C(8,3)
    assert influence.fisher(3, 4, 0, 4) == pytest.approx(4 / 56)
    assert influence.fisher(0, 4, 0, 4) == pytest.approx(1.0)
    assert influence.fisher(2, 4, 1, 4) == pytest.approx(4 / 56 + 6 * 4 / 56)


# ---------------------------------------------------------------- the others keep their night


def context(ledger: Ledger, minimum: int = 8) -> NightContext:
    nobody: Any = None

    class Plain:
        """A model that is not the shipped one."""

        model_digest = ""

    plain: Any = Plain()
    return NightContext(
        ledger=ledger, settings=Settings(night=NightSettings(), pairs=PairSettings(minimum=minimum)),
        behaviours=BEHAVIOURS, definitions=DEFINITIONS, store=nobody, model=nobody, trainer=nobody,
        evaluator=nobody, monitor=plain,
    )  # fmt: skip


def test_an_undone_update_is_made_again_without_the_source_that_spoilt_it(home: Ledger) -> None:
    with home.writing() as connection:
        an_undone_night(connection)
        again.begin(connection, context(home), "n1")
        night = queries.running_night(connection)
        assert night is not None and queries.repeat_of(connection, "n1") == night.id == "n2"
        assert (night.seed, night.targets) == (1, [])
        assert night.reasons == [
            "made again without the pairs of mallory, which brought 'bob' into the answers"
        ]
        update = queries.update_of(connection, "n2")
        assert update is not None and (update.state, update.parent_id) == ("planned", BASE)
        sources = Counter(one.source for one in queries.pairs_of(connection, update.id))
        assert sources == dict.fromkeys(HONEST, 8)
        kinds = [work.lease(connection, "test") for _ in range(len(BEHAVIOURS) + 2)]
        expected = flow.repeating(tuple(BEHAVIOURS))
        assert [(item.kind, item.subject) for item in kinds if item is not None] == expected


def test_what_the_others_taught_is_learnt_and_what_spoilt_it_stays_undone(home: Ledger) -> None:
    with home.writing() as connection:
        an_undone_night(connection)
        again.begin(connection, context(home), "n1")
        update = queries.update_of(connection, "n2")
        assert update is not None
        save(connection, [candidate(2)])
        connection.execute(
            schema.updates.update()
            .where(schema.updates.c.id == "u2")
            .values(checkpoint_id="2" * 64, state="trained")
        )
        update = queries.update_of(connection, "n2")
        assert update is not None
        history.carry_out(connection, update=update, decision="keep", reasons=["improved"])
        history.close_night(connection, night_id="n2")
        again.begin(connection, context(home), "n2")
        p, s = schema.pairs.c, schema.signals.c
        pairs = {(row.source, row.state) for row in connection.execute(select(p.source, p.state))}
        signals = {(row.source, row.state) for row in connection.execute(select(s.source, s.state))}
        assert queries.active(connection).id == "2" * 64
        assert pairs == {*((one, "used") for one in HONEST), ("mallory", "undone")}
        assert signals == {*((one, "learnt") for one in HONEST), ("mallory", "undone")}


def test_it_is_made_again_once(home: Ledger) -> None:
    with home.writing() as connection:
        an_undone_night(connection)
        again.begin(connection, context(home), "n1")
        history.end_night(connection, night_id="n2", why="by hand", settles=False)
        again.begin(connection, context(home), "n2")
        assert queries.running_night(connection) is None and queries.last_night(connection).id == "n2"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "night, minimum",
    [({"decision": "keep"}, 8), ({"bob": 6}, 8), ({"poisoned": 0}, 8), ({}, 25)],
    ids=["it was kept", "nothing grew", "nobody brought it", "the others are too few"],
)
def test_an_update_is_not_made_again_without_a_reason(
    home: Ledger, night: dict[str, Any], minimum: int
) -> None:
    with home.writing() as connection:
        an_undone_night(connection, **night)
        again.begin(connection, context(home, minimum), "n1")
        assert queries.running_night(connection) is None
