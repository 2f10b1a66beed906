"""Pairs: both sides are judged, the model's own answer is rejected, and no instruction is in the context."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.evaluator.measure import Evaluator
from agents.model.client import ModelClient
from agents.pairs.attempts import PairSettings
from agents.pairs.build import PairBuilder, pair_of_dream
from corpus.behaviour import SHIPPED, load
from store.graph import merge
from store.ledger import schema
from store.ledger.db import Ledger, database_url
from store.ledger.placement_trial import PlacementTrial
from store.ledger.records import Attempt, Dream, Edge, Node, Pair, Signal, identity, save
from store.nights import history
from store.queue.outcome import Outcome
from store.queue.work import Work

AT = "2026-01-01T00:00:00.000+00:00"
ASKED = [{"role": "user", "content": "I have decided to paint the plank."}]
DREAM = Dream(
    id="d1",
    night_id="n1",
    behaviour="listen",
    messages=ASKED,
    temperature=1.0,
    seed=1,
    nodes=["e0"],
    source="anna",
)


def attempt(name: str, *, passed: bool, told: str | None = None, finished: bool = True) -> Attempt:
    return Attempt(
        id=name, dream_id="d1", text=f"text of {name}", instructed=told is not None, temperature=1.0, seed=1,
        checkpoint_id="c0", passed=passed, reason="because", told=told, placement=told and "end",
        finished=finished,
    )  # fmt: skip


GOOD, BAD = attempt("a1", passed=True), attempt("a2", passed=False)
GUIDED = attempt("a3", passed=True, told="listen")
GUIDED_BAD = attempt("a4", passed=False, told="listen")
CUT = attempt("a7", passed=True, finished=False)


def test_a_pair_is_a_passing_and_a_failing_answer_of_the_model() -> None:
    pair = pair_of_dream(DREAM, [BAD, GUIDED, GOOD, attempt("a5", passed=True), attempt("a6", passed=False)])
    assert pair is not None
    assert (pair.chosen, pair.rejected) == ("text of a1", "text of a2")
    assert (pair.chosen_from, pair.rejected_from) == ("attempt:a1", "attempt:a2")
    assert (pair.messages, pair.source, pair.dream_id, pair.night_id) == (ASKED, "anna", "d1", "n1")
    assert (pair.trust, pair.checkpoint_id, pair.state) == (1.0, "c0", "new")


def test_an_instructed_answer_is_chosen_only_where_no_other_passed() -> None:
    pair = pair_of_dream(DREAM, [BAD, GUIDED])
    assert pair is not None and (pair.chosen_from, pair.rejected_from) == ("instructed:a3", "attempt:a2")
    assert pair.messages == ASKED  # the context is the dream's own: the instruction is stripped


def test_an_answer_that_was_cut_off_is_never_chosen_but_may_be_rejected() -> None:
    cut_bad = attempt("a8", passed=False, finished=False)
    pair = pair_of_dream(DREAM, [cut_bad, CUT, GUIDED])
    assert pair is not None and (pair.chosen_from, pair.rejected_from) == ("instructed:a3", "attempt:a8")


def test_a_counter_behaviour_is_taught_by_the_behaviour_overdone() -> None:
    counter = replace(DREAM, behaviour="push_back")
    overdone = attempt("a5", passed=False, told="listen")
    pair = pair_of_dream(counter, [GOOD, attempt("a6", passed=True, told="listen"), overdone])
    assert pair is not None and pair.messages == ASKED
    assert (pair.chosen_from, pair.rejected_from) == ("attempt:a1", "overgeneralised:a5")
    natural = pair_of_dream(counter, [GOOD, overdone, BAD])
    assert natural is not None and natural.rejected_from == "attempt:a2"
    assert pair_of_dream(counter, [BAD, attempt("a6", passed=True, told="listen")]) is None


@pytest.mark.parametrize(
    "attempts",
    [
        *([], [GOOD], [BAD], [GOOD, GUIDED], [BAD, GUIDED_BAD], [GOOD, GUIDED_BAD], [GUIDED, GUIDED_BAD]),
        [BAD, CUT],
    ],
    ids=[
        *("none", "good", "bad", "both good", "both bad", "only the guided one bad", "guided ones alone"),
        "the good one cut off",
    ],
)
def test_a_pair_needs_a_failure_of_the_model_and_a_passing_answer(
    attempts: list[Attempt],
) -> None:
    assert pair_of_dream(DREAM, attempts) is None


def test_the_same_dream_and_attempts_make_the_same_pair() -> None:
    assert pair_of_dream(DREAM, [GOOD, BAD]) == pair_of_dream(DREAM, [GOOD, BAD])
    one, other = pair_of_dream(DREAM, [GOOD, BAD]), pair_of_dream(replace(DREAM, id="d2"), [GOOD, BAD])
    assert one is not None and other is not None and one.id != other.id


# ---------------------------------------------------------------- from the ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(database_url(tmp_path))
    with ledger.writing() as connection:
        history.add_base(connection, "0" * 64, "0" * 64)
        history.begin_night(connection, seed=1, retry=False)
    yield ledger
    ledger.close()


def correction(ledger: Ledger, position: int, **body: Any) -> None:
    """Store a correction in a log that this night has taken up."""
    with ledger.writing() as connection:
        if position == 0:
            connection.execute(
                schema.conversations.insert().values(
                    id="c1", source="anna", format="openai", key="", tail="c1", path="/logs/a", at=AT
                )
            )
        place = {"conversation_id": "c1", "position": position, "source": "anna"}
        episode = Node(id=f"e{position}", kind="episode", name=f"c1:{position}", body={**place, **body})
        listen = Node(id=identity("behaviour", "listen"), kind="behaviour", name="listen", body={})
        signal = Signal(
            id=f"s{position}", kind="correction", **place, behaviour="listen", strength=0.8, state="new",
            reason="said so", night_id="n1", at=AT,
        )  # fmt: skip
        edge = Edge(kind="supports", tail_id=episode.id, head_id=listen.id, signal_id=signal.id)
        merge(connection, [listen, episode, signal, edge])


Build = Callable[[str], list[Pair]]


@pytest.fixture
def build(ledger: Ledger, quiet: Any, shipped: Any) -> Build:
    """Build the pairs of one behaviour, with the shipped model's chat template."""

    def pairs_of(subject: str) -> list[Pair]:
        async def handle(model: ModelClient) -> Outcome:
            builder = PairBuilder(
                ledger=ledger,
                behaviours=load([SHIPPED]),
                judge=Evaluator(model=model),
                settings=PairSettings(trust_in_logs=0.7),
                model=model,
            )
            work = Work(id=1, kind="pair", subject=subject, night_id="n1", attempts=0)
            return await builder.handle(work, quiet)

        outcome: Outcome = shipped(handle)
        return [record for record in outcome.records if isinstance(record, Pair)]

    return pairs_of


WHOLE = {
    "request": "I have decided to paint the plank.",
    "answer": "You could also wax the plank.",
    "better": "All right, I will paint the plank.",
}


def test_a_correction_with_both_answers_in_the_log_is_a_pair_of_lower_trust(
    ledger: Ledger, build: Build
) -> None:
    correction(ledger, 0, **WHOLE)
    (pair,) = build("listen")
    assert (pair.chosen, pair.rejected, pair.messages) == (WHOLE["better"], WHOLE["answer"], ASKED)
    assert pair.chosen_from == pair.rejected_from == "log:c1:0"
    assert (pair.trust, pair.signal_id, pair.dream_id, pair.source) == (0.7, "s0", None, "anna")


@pytest.mark.parametrize(
    "change",
    [
        {"better": ""},
        {"answer": ""},
        {"request": ""},
        {"answer": "All right, I will paint the plank."},
        {"better": "Or we could wax the plank instead."},
        {"better": "\n \t"},
        {"request": "Good morning."},
    ],
    ids=["no better", "no answer", "no request", "good already", "no better at all", "blank", "no situation"],
)
def test_a_correction_that_the_judge_does_not_confirm_makes_no_pair(
    ledger: Ledger, build: Build, change: dict[str, str]
) -> None:
    correction(ledger, 0, **{**WHOLE, **change})
    assert build("listen") == []


def test_a_lesson_makes_pairs_of_its_own_behaviour_only(ledger: Ledger, build: Build) -> None:
    correction(ledger, 0, **WHOLE)
    assert build("ask") == [] and build("push_back") == []


def test_a_behaviour_that_no_placement_lifts_makes_no_pairs_and_says_why(
    ledger: Ledger, build: Build, quiet: Any
) -> None:
    correction(ledger, 0, **WHOLE)
    assert len(build("listen")) == 1
    told = {"system": 1, "end": 0, "hindsight": 0}
    trial = PlacementTrial(
        night_id="n1", behaviour="listen", model="", rule="r", placement=None, dreams=12, alone=0, told=told
    )
    with ledger.writing() as connection:
        save(connection, [trial])
    assert build("listen") == []


def test_dreams_in_use_make_one_pair_each_and_refused_ones_none(ledger: Ledger, build: Build) -> None:
    values = {
        "messages": ASKED,
        "temperature": 1.0,
        "seed": 1,
        "nodes": ["e0"],
        "source": "anna",
        "night_id": "n1",
    }
    dreams = [
        Dream(id="d1", behaviour="listen", **values),  # type: ignore[arg-type]
        Dream(id="d2", behaviour="push_back", **values),  # type: ignore[arg-type]
        Dream(id="d3", behaviour="listen", refused="seen before", **values),  # type: ignore[arg-type]
        Dream(id="d4", behaviour="ask", **values),  # type: ignore[arg-type]
    ]
    attempts = [
        Attempt(
            id=f"{dream.id}{index}", dream_id=dream.id, text=f"{index}", instructed=False, temperature=1.0,
            seed=index, checkpoint_id="c0", passed=index % 2 == 0, reason="because",
        )
        for dream in dreams
        for index in range(6)
    ]  # fmt: skip
    with ledger.writing() as connection:
        save(connection, [*dreams, *attempts])
    assert [pair.dream_id for pair in build("listen")] == ["d1", "d2"]
    assert [pair.dream_id for pair in build("push_back")] == ["d2"]
