"""Reports for a user: counted from rows, and traced to the lines of the log."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from night import BASE, a_dream, a_lesson, a_pair, a_trained_night, decide, new_ledger, sha
from sqlalchemy import Connection

from corpus.behaviour import SHIPPED, load
from corpus.errors import UnknownId
from store.graph import merge
from store.ledger import schema
from store.ledger.records import Measurement, Reading, Verdict, identity, save
from store.nights import history, report
from store.nights.cost import NightTokens
from store.nights.results import (
    BeforeAfter,
    FailedWork,
    LogLine,
    PassCount,
    Quarantine,
    WhyPair,
    WhyUpdate,
)
from store.queue.outcome import Change, apply, note
from store.queue.work import enqueue, fail, lease

BEHAVIOURS = load([SHIPPED])
DEFINITIONS = {name: name for name in BEHAVIOURS}


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    ledger = new_ledger(tmp_path)
    with ledger.writing() as writing:
        yield writing
    ledger.close()


def a_night_from_a_log(connection: Connection) -> str:
    """Train on three pairs: one from a dream, one from a log, one from a declared example."""
    merge(connection, [*a_lesson(2), *a_lesson(4)])  # type: ignore[list-item]
    night_id = history.begin_night(connection, seed=3, retry=False)
    declared = identity("behaviour", "listen")
    save(connection, [a_dream("d1", night_id), a_dream("d2", night_id, nodes=[declared], source="")])
    save(connection, [a_dream("d3", night_id, refused="seen before")])
    pairs = [
        a_pair("p1", night_id, dream_id="d1"),
        a_pair("p2", night_id, signal_id="s4"),
        a_pair("p3", night_id, dream_id="d2", source=""),
    ]
    update = a_trained_night(connection, *pairs, seed=3)
    for name, before, after in (("listen", "0001", "1111"), ("push_back", "1110", "1110")):
        for weights, outcomes in ((sha("base weights"), before), (sha("weights 1"), after)):
            save(
                connection,
                [
                    Measurement(
                        weights_sha256=weights,
                        behaviour=name,
                        definition=name,
                        seed=3,
                        round=0,
                        outcomes=outcomes,
                    )
                ],
            )
            again = Measurement(
                weights_sha256=weights, behaviour=name, definition=name, seed=3, round=1, outcomes="11111111"
            )
            save(connection, [again])
    for weights, mean in ((sha("base weights"), 1.2), (sha("weights 1"), 1.25)):
        save(
            connection,
            [Reading(weights_sha256=weights, name="perplexity", vectors="", mean=mean, spread=0.0)],
        )
    decide(connection, update, "keep", ["improved: listen"])
    save(connection, [Verdict(update_id=update.id, decision="keep", reasons=[], tests=[], at=update.at)])
    return night_id


def lines(why: WhyUpdate | WhyPair) -> list[tuple[str, int]]:
    return [(line.path, line.line) for line in why.log_lines]


# ---------------------------------------------------------------- why


def test_why_traces_a_dreamt_pair_to_the_line_of_the_log(connection: Connection) -> None:
    a_night_from_a_log(connection)
    why = report.why(connection, "p1")
    assert lines(why) == [("/logs/a.jsonl", 102)]
    assert isinstance(why, WhyPair) and why.dream is not None
    assert why.log_lines[0] == LogLine(
        path="/logs/a.jsonl", line=102, kind="correction", source="anna", text="turn 2"
    )
    assert why.dream.id == "d1" and (why.chosen, why.rejected) == ("good", "bad")


def test_why_traces_a_pair_from_a_log_to_its_own_line(connection: Connection) -> None:
    a_night_from_a_log(connection)
    why = report.why(connection, "p2")
    assert lines(why) == [("/logs/a.jsonl", 104)]
    assert isinstance(why, WhyPair) and why.dream is None


def test_a_pair_from_declared_examples_is_traced_to_all_lessons_of_its_night(
    connection: Connection,
) -> None:
    a_night_from_a_log(connection)
    assert lines(report.why(connection, "p3")) == [("/logs/a.jsonl", 102), ("/logs/a.jsonl", 104)]


def test_why_of_an_update_lists_every_line_once_in_order(connection: Connection) -> None:
    a_night_from_a_log(connection)
    why = report.why(connection, "u1")
    assert isinstance(why, WhyUpdate)
    assert [pair.id for pair in why.pairs] == ["p1", "p2", "p3"]
    assert lines(why) == [("/logs/a.jsonl", 102), ("/logs/a.jsonl", 104)]
    assert why.update.id == "u1" and why.update.pairs == 3


@pytest.mark.parametrize("wanted", ["", "u9", "s2", "' OR 1=1 --", "%"])
def test_why_of_an_unknown_id_says_where_to_find_the_ids(connection: Connection, wanted: str) -> None:
    a_night_from_a_log(connection)
    with pytest.raises(UnknownId, match="`nightschool ledger updates` lists them"):
        report.why(connection, wanted)


# ---------------------------------------------------------------- a night


def test_a_nights_report_counts_its_rows(connection: Connection) -> None:
    night = report.night_report(connection, a_night_from_a_log(connection), BEHAVIOURS, DEFINITIONS)
    counted = {
        key: getattr(night, key)
        for key in ("conversations", "turns", "signals", "dreams", "pairs", "reasons")
    }
    counts = {"conversations": 1, "turns": 6, "signals": 2, "dreams": 2, "pairs": 3}
    assert counted == {**counts, "reasons": ["improved: listen"]}
    (update,) = night.updates
    assert (update.id, update.steps, update.pairs, update.verdict) == ("u1", 4, 3, "keep")
    assert update.checkpoint == sha("checkpoint 1") and night.retention == BeforeAfter(before=1.2, after=1.25)


def test_a_nights_report_adds_up_the_tokens_of_its_work_by_what_they_were_for(connection: Connection) -> None:
    night_id = a_night_from_a_log(connection)
    spent = [
        ("dream", {"tokens": 90}), ("attempt", {"tokens": 400}), ("attempt", {"tokens": 110}), ("plan", {}),
        ("pair", {"tokens": 7}), ("measure", {"tokens": 30}), ("measure", {"tokens": 20}),
        ("listen", {"tokens_read": 5}), ("read", {"tokens_read": 6}),
    ]  # fmt: skip
    for kind, body in spent:
        note(connection, kind, night_id, body)
    note(connection, "attempt", "n9", {"tokens": 1000})
    night = report.night_report(connection, night_id, BEHAVIOURS, DEFINITIONS)
    assert night.tokens == NightTokens(dreams=90, attempts=517, verdict=50, readings=11)
    assert night.tokens_per_pair == round((90 + 517) / 3, 1)


def test_before_and_after_are_the_pass_counts_of_all_scenarios_measured_both_times(
    connection: Connection,
) -> None:
    night = report.night_report(connection, a_night_from_a_log(connection), BEHAVIOURS, DEFINITIONS)
    behaviours = {row.name: row for row in night.behaviours}
    assert behaviours["listen"].before == PassCount(passed=9, trials=12)
    assert behaviours["listen"].after == PassCount(passed=12, trials=12)
    assert behaviours["push_back"].counter_of == "listen" and behaviours["listen"].counter_of is None
    assert behaviours["brief"].before is None


def test_a_night_reads_only_turns_that_no_earlier_night_read(connection: Connection) -> None:
    a_night_from_a_log(connection)
    night_id = history.begin_night(connection, seed=3, retry=False)
    night = report.night_report(connection, night_id, BEHAVIOURS, DEFINITIONS)
    assert (night.conversations, night.turns, night.signals, night.pairs) == (0, 0, 0, 0)
    assert night.updates == night.behaviours == [] and night.retention is None


def test_each_behaviour_is_listed_before_its_counter_behaviour() -> None:
    names = [behaviour.name for behaviour in report.ordered(BEHAVIOURS)]
    assert names == ["ask", "act", "brief", "thorough", "direct", "read_back", "listen", "push_back"]


# ---------------------------------------------------------------- status and lists


def test_the_status_of_a_new_home_has_only_the_base(connection: Connection) -> None:
    status = report.status(connection)
    assert (status.checkpoint, status.weights_sha256, status.weights_version) == (
        BASE,
        sha("base weights"),
        1,
    )
    assert status.queue == {} and status.set_aside == Quarantine(lines=0, work=[])
    assert status.last_update is None and status.last_night is None


def test_the_status_counts_queued_and_quarantined_work(connection: Connection) -> None:
    enqueue(connection, "extract", "bad")
    for _ in range(3):
        item = lease(connection, "test")
        assert item is not None
        fail(connection, item, "boom")
    for subject in ("a", "b"):
        enqueue(connection, "extract", subject)
    connection.execute(schema.set_aside_lines.insert().values(path="/x", line=3, reason="no JSON", at="now"))
    status = report.status(connection)
    assert status.queue == {"extract": 2}
    assert status.set_aside == Quarantine(
        lines=1, work=[FailedWork(kind="extract", subject="bad", error="boom")]
    )


def test_the_weights_version_grows_with_every_change_of_the_weights(connection: Connection) -> None:
    a_night_from_a_log(connection)
    assert report.status(connection).weights_version == 2
    history.roll_back(connection, BASE, "by hand")
    status = report.status(connection)
    assert (status.weights_version, status.weights_sha256) == (3, sha("base weights"))
    assert (
        status.last_update is not None
        and status.last_update.id == "u1"
        and status.last_update.state == "undone"
    )


def test_the_list_of_checkpoints_marks_the_active_one(connection: Connection) -> None:
    a_night_from_a_log(connection)
    rows = report.checkpoint_list(connection)
    assert [(row.number, row.active, row.state) for row in rows] == [
        (0, False, "kept"),
        (1, True, "kept"),
    ]


@pytest.mark.parametrize("name", sorted(report.LISTS))
def test_every_list_returns_its_newest_rows_in_full(connection: Connection, name: str) -> None:
    a_night_from_a_log(connection)
    every = report.listing(connection, name, 100)
    assert every.rows and every.columns == report.LISTS[name][1]
    assert report.listing(connection, name, 1).rows == every.rows[-1:]
    assert report.listing(connection, name, 0).rows == []
    assert {len(row) for row in every.rows} == {len(every.columns)}


def test_an_update_without_a_verdict_is_listed_as_decided_by_hand(connection: Connection) -> None:
    """An update without a verdict is listed with its state."""
    night_id = a_night_from_a_log(connection)
    connection.execute(schema.verdicts.delete())
    apply(connection, Change(table="updates", where={"id": "u1"}, values={"state": "refused"}))
    assert report.night_report(connection, night_id, BEHAVIOURS, DEFINITIONS).updates[0].verdict == "refused"
