"""The conversations and behaviours for a real model: what the extractor finds, and what is held out."""

from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from agents.evaluator import judge
from agents.extractor.extract import ConversationView, extract
from agents.ingest.peek import conversations_in
from corpus.behaviour import Behaviour, load
from corpus.conversation import Conversation
from corpus.text import jaccard, word_set
from store.ledger.records import Signal

FOLDER = Path(__file__).parents[2] / "corpus" / "real"
TAUGHT = ("concise", "euro", "plain", "yes_no")
NEAR = 0.75
"""Jaccard similarity of the words of two requests from which one would pass for the other."""
COMMON = frozenset(
    """
    about advantages after again alive also always another answer answers any anyone around asks away
    back been before begin being best better both bullet cannot case change charge checklist clear come
    comes cost costs could day days dear describe detail detailed did does dollar dollars done down each
    easy european euros even ever every exactly expensive explain explanation fair find fine first five
    four free from gave get gets give gives going good great half have hello help here hour hours ideas
    into just keep keeping keeps kept kind know learn left length less like line list little living long
    longer look looking looks made make makes many more most move much must name need needs never nice
    night none not numbered often once one only open other over own part pay people please point price
    prices put rest right same say second short should side since slow small some start starts stay step
    steps still stop stopped store such suggestions take talk tell than thank thanks that the their them
    then there these they thing things this thorough thoroughly three ticket time tips today too turn
    two under until upon used using very want wants was way ways week well were what whats when where
    whether which while who whole whose why will with without words work works would write year years
    yes your
    """.split()
)
"""Words that requests about quite different subjects share."""


@cache
def behaviours() -> dict[str, Behaviour]:
    return load([FOLDER / "behaviours"])


@cache
def conversations() -> dict[str, Conversation]:
    """Return all conversations, by file and line."""
    found = {}
    for path in sorted((FOLDER / "conversations").glob("*.jsonl")):
        for conversation in conversations_in(path):  # as an ingest does: the file shows the scale
            found[f"{path.stem}:{conversation.turns[0].line}"] = conversation
    return found


@cache
def signals() -> dict[str, list[Signal]]:
    """Return the signals of each conversation."""
    found = {}
    for name, conversation in conversations().items():
        view = ConversationView(id=name, source=conversation.source, turns=conversation.turns)
        records = extract(view, behaviours(), judge, "2026-01-01T00:00:00.000+00:00")
        found[name] = [record for record in records if isinstance(record, Signal)]
    return found


def users_texts() -> list[str]:
    """Return everything that the user of a conversation wrote, and every example of a behaviour."""
    turns = [turn.text for one in conversations().values() for turn in one.turns if turn.role == "user"]
    return [*turns, *(example for behaviour in behaviours().values() for example in behaviour.examples)]


def subject(text: str) -> set[str]:
    """Return the words of a request that say what it is about."""
    return {word for word in word_set(text) if len(word) >= 4} - COMMON


def applying(text: str) -> set[str]:
    """Return the names of the behaviours that apply to a request."""
    messages = [{"role": "user", "content": text}]
    return {name for name, behaviour in behaviours().items() if judge.applies(behaviour, messages)}


def test_there_are_enough_conversations_half_of_them_with_a_system_prompt() -> None:
    first = [one.turns[0].role for one in conversations().values()]
    assert len(first) >= 60
    assert 0.45 <= first.count("system") / len(first) <= 0.55
    assert sum(sum(turn.role == "user" for turn in one.turns) > 1 for one in conversations().values()) >= 60


def test_each_of_the_four_behaviours_has_at_least_a_hundred_different_held_out_requests_a_side() -> None:
    assert {name for name, each in behaviours().items() if not each.counter_of} == set(TAUGHT)
    for behaviour in behaviours().values():
        assert len({frozenset(word_set(text)) for text in behaviour.held_out}) >= 100, behaviour.name


@pytest.mark.parametrize("name", sorted(load([FOLDER / "behaviours"])))
def test_a_request_puts_its_own_behaviour_to_the_test_and_no_other(name: str) -> None:
    behaviour = behaviours()[name]
    for text in (*behaviour.held_out, *behaviour.examples):
        assert applying(text) == {name}, text


@pytest.mark.parametrize("name", sorted(load([FOLDER / "behaviours"])))
def test_no_held_out_request_shares_its_subject_or_its_wording_with_a_log_or_an_example(name: str) -> None:
    known = users_texts()
    subjects = set().union(*map(subject, known))
    for text in behaviours()[name].held_out:
        assert not subject(text) & subjects, text
        closest = max(known, key=lambda other: jaccard(word_set(text), word_set(other)))
        assert jaccard(word_set(text), word_set(closest)) < NEAR, (text, closest)


def test_every_behaviour_is_taught_by_at_least_ten_people_in_different_words() -> None:
    for name in TAUGHT:
        lessons = [
            (conversations()[place].source, conversations()[place].turns[signal.position].text)
            for place, some in signals().items()
            for signal in some
            if signal.state == "new" and signal.behaviour == name
        ]
        assert len({who for who, _ in lessons}) >= 10, name
        assert len({text for _, text in lessons}) == len(lessons), name


def test_corrections_ratings_edits_and_repeated_asks_all_teach() -> None:
    taught = Counter(signal.kind for some in signals().values() for signal in some if signal.state == "new")
    assert taught["correction"] >= 36
    assert taught["edit"] >= 6
    assert taught["rating"] >= 4
    assert taught["repeated_ask"] >= 2


def test_a_lesson_is_found_in_every_conversation_that_was_written_for_one() -> None:
    for place, some in signals().items():
        file = place.partition(":")[0]
        if file in TAUGHT:
            assert file in {signal.behaviour for signal in some if signal.state == "new"}, place


def test_ordinary_talk_teaches_nothing() -> None:
    found = [signals()[place] for place in signals() if place.startswith("ordinary")]
    assert len(found) >= 12
    assert not any(signal.state == "new" for some in found for signal in some)


def test_nothing_of_the_bad_actor_becomes_a_lesson() -> None:
    found = [signal for place, some in signals().items() if place.startswith("trudy") for signal in some]
    assert len(found) >= 6
    assert {signal.state for signal in found} == {"refused"}
