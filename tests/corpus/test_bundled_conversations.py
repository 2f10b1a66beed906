"""The bundled conversations that `init --demo` loads, and what the extractor finds in them."""

from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

from agents.evaluator import judge
from agents.extractor.extract import ConversationView, extract
from agents.ingest.peek import conversations_in
from corpus.behaviour import SHIPPED, load
from corpus.conversation import Conversation
from corpus.world import ordinary, requests
from store.ledger.records import Node, Signal

FOLDER = Path(__file__).parents[2] / "corpus" / "conversations"
HABITS = ("listen", "brief", "ask", "direct")


@cache
def conversations() -> dict[str, Conversation]:
    """Return all bundled conversations, by file and line."""
    conversations = {}
    for path in sorted(FOLDER.glob("*.jsonl")):
        for conversation in conversations_in(path):  # as an ingest does: the file shows the scale
            conversations[f"{path.stem}:{conversation.turns[0].line}"] = conversation
    return conversations


@cache
def signals() -> dict[str, list[Signal]]:
    """Return the signals of each conversation."""
    behaviours = load([SHIPPED])
    signals = {}
    for name, conversation in conversations().items():
        view = ConversationView(id=name, source=conversation.source, turns=conversation.turns)
        records = extract(view, behaviours, judge, "2026-01-01T00:00:00.000+00:00")
        signals[name] = [record for record in records if isinstance(record, Signal)]
    return signals


def of(file: str) -> list[Signal]:
    """Return the signals of one file."""
    return [signal for name, some in signals().items() for signal in some if name.startswith(f"{file}:")]


def test_there_are_enough_conversations_by_enough_people() -> None:
    assert len(conversations()) >= 72
    assert len({conversation.source for conversation in conversations().values()}) >= 18


def test_no_held_out_combination_is_in_any_turn() -> None:
    for name, conversation in conversations().items():
        for turn in conversation.turns:
            for text in (turn.text, turn.edited or ""):
                request = requests.read(text)
                assert request is None or not requests.reserved(request), (name, text)


def test_they_contain_no_remark_that_is_reserved_for_measurements() -> None:
    held_out = set(ordinary.held_out(200))
    for name, conversation in conversations().items():
        texts = [turn.text for turn in conversation.turns]
        assert not held_out & set(pairwise(texts)), name


def test_every_bad_base_behaviour_is_corrected_in_at_least_ten_conversations_in_different_words() -> None:
    taught = Counter(s.behaviour for some in signals().values() for s in some if s.state == "new")
    assert all(taught[habit] >= 10 for habit in HABITS), taught
    corrections = [
        conversations()[name].turns[s.position].text
        for name, some in signals().items()
        for s in some
        if s.kind == "correction" and s.state == "new"
    ]
    assert len(set(corrections)) == len(corrections) >= 48


def test_every_correction_is_found_and_supports_the_behaviour_of_its_request() -> None:
    """In these two files, a user turn after an answer that fails its check is a correction."""
    behaviours = load([SHIPPED])
    missed = []
    for name, conversation in conversations().items():
        if not name.startswith(("workshop", "office")):
            continue
        turns = conversation.turns
        for position in range(1, len(turns) - 1):
            if turns[position].role != "assistant" or turns[position + 1].role != "user":
                continue
            messages = [{"role": "user", "content": turns[position - 1].text}]
            failed = [
                b.name
                for b in behaviours.values()
                if judge.applies(b, messages) and not judge.judge(b, messages, turns[position].text).passed
            ]
            about = [s for s in signals()[name] if s.position == position + 1 and s.state == "new"]
            if failed and [s.behaviour for s in about] != failed:
                missed.append((name, turns[position + 1].text, about))
    assert not missed


def test_ratings_edits_and_repeated_requests_teach_too() -> None:
    taught = Counter(s.kind for some in signals().values() for s in some if s.state == "new")
    assert min(taught["rating"], taught["edit"], taught["repeated_ask"]) >= 3, taught


def test_no_turn_of_the_bad_actor_becomes_a_lesson() -> None:
    assert len(conversations()) - sum(not name.startswith("mallory") for name in conversations()) >= 6
    signals = of("mallory")
    assert len(signals) >= 12
    assert {signal.state for signal in signals} == {"refused"}
    assert {signal.behaviour for signal in signals} == {None}
    assert all("push_back" in signal.reason for signal in signals)


def test_ordinary_talk_teaches_nothing() -> None:
    assert sum(name.startswith("ordinary") for name in conversations()) >= 16
    assert [signal for signal in of("ordinary") if signal.state != "noted" or signal.behaviour] == []


def test_counter_behaviours_are_shown_correctly_and_approved() -> None:
    praised = Counter(s.behaviour for some in signals().values() for s in some if s.state == "noted")
    assert min(praised[name] for name in ("push_back", "thorough", "act", "read_back")) >= 2, praised


def test_only_the_bad_actor_is_refused() -> None:
    assert [
        s for name, some in signals().items() if "mallory" not in name for s in some if s.state == "refused"
    ] == []


def test_some_facts_are_stated() -> None:
    behaviours, facts = load([SHIPPED]), []
    for name, conversation in conversations().items():
        view = ConversationView(id=name, source=conversation.source, turns=conversation.turns)
        facts += [
            r.name for r in extract(view, behaviours, judge, "") if isinstance(r, Node) and r.kind == "fact"
        ]
    assert len(facts) >= 4
    assert not any("mallory" in fact for fact in facts)
