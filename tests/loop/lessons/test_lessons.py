"""From a stranger's complaints to behaviour files: proposed, decided on, learnt from, forgotten."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from conftest import Command
from sqlalchemy import select

import corpus
from agents.evaluator.judge import RuleJudge
from agents.extractor.handler import Extractor
from agents.ingest.read import ingest_paths
from corpus.behaviour import load
from corpus.errors import ConfigError, GateRefused, UsageError
from loop.config import LessonSettings, Settings
from loop.lessons.accepting import Accepting
from loop.lessons.gathering import described, refresh
from loop.lessons.operations import LessonOperations
from loop.lessons.results import Lesson
from loop.night.context import NightContext, definitions
from store import graph, proposals
from store.conversations import forget
from store.home import Home
from store.ledger import schema
from store.ledger.db import Ledger
from store.ledger.records import Signal
from store.ledger.rows import all_of
from store.nights import history
from store.queue import outcome, work

COMPLAINTS = Path(corpus.__file__).parent / "lessons" / "complaints.jsonl"


async def no_report(done: int, total: int) -> None:
    pass


class Person:
    """A home with a ledger and no model, and what a person does in it."""

    def __init__(self, place: Path, **lessons: Any) -> None:
        self.home = Home(place)
        (place / "behaviours").mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger(f"sqlite:///{place / 'ledger.db'}")
        settings = Settings(lessons=LessonSettings(**lessons))
        unused: Any = None
        self.context = NightContext(
            ledger=self.ledger, settings=settings, behaviours=load([place / "behaviours"]), definitions={},
            store=unused, model=unused, trainer=unused, evaluator=unused, monitor=unused,
        )  # fmt: skip
        self.accepting = Accepting(home=self.home, context=self.context)

    def ingest(self, *paths: Path) -> None:
        anyio.run(ingest_paths, self.ledger, list(paths), None)
        handler = Extractor(ledger=self.ledger, behaviours=self.context.behaviours, judging=RuleJudge())
        while True:
            with self.ledger.writing() as connection:
                item = work.lease(connection, "test", ("extract",))
            if item is None:
                break
            found = anyio.run(handler.handle, item, no_report)
            with self.ledger.writing() as connection:
                outcome.commit(connection, item, found, [])
        self.refresh()

    def refresh(self) -> None:
        with self.ledger.writing() as connection:
            refresh(connection, self.context.behaviours)

    def lessons(self) -> dict[str, Lesson]:
        """The open proposals, by check; those without one by their complaint."""
        with self.ledger.reading() as connection:
            all_ = described(connection, self.context.behaviours, self.context.settings)
        return {one.check or one.quotes[0].words: one for one in all_ if one.state == "open"}

    def signals(self) -> list[Signal]:
        with self.ledger.reading() as connection:
            return all_of(connection, Signal, select(schema.signals).where(schema.signals.c.state == "new"))

    def decide(self, number: int, state: str) -> None:
        with self.ledger.writing() as connection:
            proposals.decide(connection, number, state, reason="no")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that has read the twelve conversations of a stranger."""
    place = tmp_path_factory.mktemp("told") / "home"
    person = Person(place)
    person.ingest(COMPLAINTS)
    person.ledger.close()
    return place


@pytest.fixture
def person(told: Path, tmp_path: Path) -> Iterator[Person]:
    made = Person(Path(shutil.copytree(told, tmp_path / "home")))
    yield made
    made.ledger.close()


def talk(path: Path, *complaints: tuple[str, str, str], start: int = 0) -> Path:
    """Write a log with one conversation for each (person, answer, complaint)."""
    import json

    lines = [
        json.dumps(
            {
                "user": who,
                "messages": [
                    {"role": role, "content": text}
                    for role, text in (
                        ("user", f"How do I open jar number {start + place}?"),
                        ("assistant", answer),
                        ("user", words),
                    )
                ],
            }
        )
        for place, (who, answer, words) in enumerate(complaints)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


SORRY = "Sorry, I apologise. Turn the lid to the left."


def test_three_kinds_of_complaints_are_proposed_and_one_about_the_task_is_not(person: Person) -> None:
    found = person.lessons()
    least = [one for one in found.values() if one.conversations >= 2]
    assert {one.check for one in least} == {"max_words", "units", "no_apology"}
    assert found["max_words"].parameters == {"most": 30} and found["units"].parameters == {"system": "euros"}
    assert all(one.judged and one.counter and one.draft and one.cost for one in least)
    assert {quote.source for quote in found["no_apology"].quotes} == {"chloe", "emma"}
    assert all(quote.path == str(COMPLAINTS) and quote.line for quote in found["units"].quotes)
    task = [one for one in found.values() if "IndexError" in one.quotes[0].words]
    assert all(one.conversations == 1 and not one.judged and not one.draft for one in task)


def test_reading_the_same_ledger_again_changes_nothing(person: Person) -> None:
    before = person.lessons()
    person.refresh()
    assert person.lessons() == before


def test_accepting_writes_a_file_that_a_person_can_change_and_makes_lessons(person: Person) -> None:
    before = person.lessons()["units"]
    done = anyio.run(person.accepting.accept, before.number)
    assert done.behaviour == "in_euros" and done.file and done.lessons == before.conversations
    assert Path(done.file).read_text() == before.draft
    assert set(load([person.home.path / "behaviours"])) == {"in_euros", "not_in_euros"}
    assert person.context.behaviours == load([person.home.path / "behaviours"])
    assert person.context.definitions == definitions(person.context.behaviours, person.context.settings, ())
    with person.ledger.reading() as connection:
        lessons = graph.new_lessons(connection, 1000)
        assert [signal.behaviour for signal, _ in lessons] == ["in_euros"] * before.conversations
        assert len(graph.episodes(connection, "in_euros")) == before.conversations
    with pytest.raises(UsageError, match="is behaviour in_euros already"):
        anyio.run(person.accepting.accept, before.number)
    assert not any(quote.words in Path(done.file).read_text() for quote in before.quotes)


def test_a_death_between_the_file_and_the_ledger_is_made_good_by_accepting_again(person: Person) -> None:
    lesson = person.lessons()["no_apology"]
    (person.home.path / "behaviours" / "no_apology.toml").write_text(lesson.draft)
    assert anyio.run(person.accepting.accept, lesson.number).file is not None
    assert len(list((person.home.path / "behaviours").iterdir())) == 1


def test_a_file_that_was_edited_wrongly_is_refused_and_nothing_is_written(person: Person) -> None:
    lesson = person.lessons()["units"]
    for text, refusal in (
        (lesson.draft.replace('"euros"', '"francs"'), ConfigError),
        (lesson.draft.replace("[counter]", "[conter]"), ConfigError),
    ):
        with pytest.raises(refusal):
            anyio.run(person.accepting.accept, lesson.number, text)
    assert list((person.home.path / "behaviours").iterdir()) == [] and person.lessons()["units"] == lesson
    edited = lesson.draft.replace('name = "in_euros"', 'name = "prices"')
    assert anyio.run(person.accepting.accept, lesson.number, edited).behaviour == "prices"


def test_nothing_is_accepted_without_a_judge_or_while_a_night_runs(person: Person, tmp_path: Path) -> None:
    hours = [(who, "Turn it.", "No, you must mention the opening hours.") for who in ("ada", "ben")]
    person.ingest(talk(tmp_path / "a.jsonl", *hours))
    lesson = next(one for one in person.lessons().values() if "hours" in one.quotes[0].words)
    assert not lesson.judged and "cannot be judged" in lesson.judge
    with pytest.raises(GateRefused, match="lets you write its behaviour file"):
        anyio.run(person.accepting.accept, lesson.number)
    with person.ledger.writing() as connection:
        history.begin_night(connection, seed=0, retry=False)
    with pytest.raises(GateRefused, match="a night is running"):
        anyio.run(person.accepting.accept, person.lessons()["units"].number)


def test_a_rejected_proposal_comes_back_with_two_more_conversations_and_not_before(
    person: Person, tmp_path: Path
) -> None:
    person.decide(person.lessons()["no_apology"].number, "rejected")
    person.refresh()
    assert "no_apology" not in person.lessons()
    person.ingest(talk(tmp_path / "a.jsonl", ("gus", SORRY, "Stop apologising, that is annoying.")))
    assert "no_apology" not in person.lessons()
    person.ingest(talk(tmp_path / "b.jsonl", ("hal", SORRY, "Stop apologising, please."), start=1))
    assert person.lessons()["no_apology"].people == 4


def test_what_is_put_off_comes_back_with_the_next_complaint(person: Person, tmp_path: Path) -> None:
    person.decide(person.lessons()["no_apology"].number, "later")
    person.refresh()
    assert "no_apology" not in person.lessons()
    person.ingest(talk(tmp_path / "a.jsonl", ("gus", SORRY, "Stop apologising, that is annoying.")))
    assert "no_apology" in person.lessons()


def test_merged_proposals_share_their_evidence_from_then_on(person: Person, tmp_path: Path) -> None:
    found = person.lessons()
    one, into = found["no_apology"], found["units"]
    operations = LessonOperations(service=None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="two different"):
        operations._merge(None, into.number, into.number)  # type: ignore[arg-type]
    with person.ledger.writing() as connection:
        proposals.merge(connection, one.number, into.number)
    person.ingest(talk(tmp_path / "a.jsonl", ("gus", SORRY, "Stop apologising, that is annoying.")))
    after = person.lessons()
    assert "no_apology" not in after
    assert after["units"].conversations == into.conversations + one.conversations + 1
    assert after["units"].parameters == into.parameters


def test_contradictory_complaints_are_shown_at_each_other_with_the_people_behind_them(
    person: Person, tmp_path: Path
) -> None:
    answer = "It costs 20 euros."
    person.ingest(talk(tmp_path / "a.jsonl", ("gus", answer, "No, that's wrong, in dollars please.")))
    found = {one.parameters.get("system"): one for one in person.lessons().values() if one.check == "units"}
    numbers = [one.number for one in person.lessons().values() if one.check == "units"]
    with person.ledger.reading() as connection:
        all_ = {
            one.parameters["system"]: one
            for one in described(connection, person.context.behaviours, person.context.settings)
            if one.check == "units"
        }
    assert (
        numbers and found and all_["euros"].contradicts == [f"proposal {all_['dollars'].number} of 1 person"]
    )
    assert all_["dollars"].contradicts[0].startswith(f"proposal {all_['euros'].number} of ")


def test_an_accepted_behaviour_learns_from_the_complaints_that_come_later(
    person: Person, tmp_path: Path
) -> None:
    anyio.run(person.accepting.accept, person.lessons()["no_apology"].number)
    before = len(person.signals())
    person.ingest(talk(tmp_path / "a.jsonl", ("gus", SORRY, "Stop saying sorry, that is annoying.")))
    assert [signal.behaviour for signal in person.signals()] == ["no_apology"] * (before + 1)


def test_forgetting_a_person_takes_their_evidence_and_a_proposal_that_rested_on_it(person: Person) -> None:
    for source in ("chloe", "emma"):
        with person.ledger.writing() as connection:
            forget.forget(connection, source, "")
    assert "no_apology" not in person.lessons() and "units" in person.lessons()
    with person.ledger.reading() as connection:
        known = {row.number for row in proposals.rows(connection)}
        assert known == set(proposals.evidence_of(connection))


@pytest.mark.parametrize(
    "settings, accepted",
    [
        ({"accept": "ask"}, set()),
        ({"accept": "catalogue", "people": 2}, {"max_30_words", "in_euros", "no_apology"}),
        ({"accept": "catalogue", "people": 9}, set()),
        ({"accept": "all", "people": 9}, {"max_30_words", "in_euros", "no_apology"}),
        ({"accept": "all", "conversations": 9}, set()),
    ],
)
def test_the_program_accepts_by_itself_only_what_the_owner_lets_it(
    told: Path, tmp_path: Path, settings: dict[str, Any], accepted: set[str]
) -> None:
    person = Person(Path(shutil.copytree(told, tmp_path / "home")), **settings)
    done = anyio.run(person.accepting.accept_by_itself)
    assert {one.behaviour for one in done} == accepted
    assert {path.stem for path in (person.home.path / "behaviours").iterdir()} == accepted
    person.ledger.close()


def test_a_review_without_a_terminal_says_what_to_use_instead(command: Command, tmp_path: Path) -> None:
    message = command("--home", tmp_path, "lessons", "review", "--json").failed(2)
    assert "reads single keys from a terminal" in message and "lessons accept N" in message
