"""The ordinary dialogue: enough of it, well formed, and no two exchanges alike."""

import json
import re
from collections import Counter
from itertools import combinations

import pytest

from corpus.ordinary.dialogue import HERE, digest, load, select
from corpus.text import jaccard, word_set

EXCHANGES = load()
CONVERSATIONS = [
    (path.stem, json.loads(line)["messages"])
    for path in sorted(HERE.glob("*.jsonl"))
    for line in path.read_text("utf-8").splitlines()
]
CATEGORIES = {
    "advice",
    "arithmetic",
    "code",
    "explanations",
    "facts",
    "letters",
    "refusals",
    "small_talk",
    "translation",
}
OPENINGS = ("great question", "good question", "certainly", "of course", "absolutely", "sure")
CLOSINGS = ("let me know if", "hope this helps", "feel free to", "happy to help", "is there anything else")


def test_there_are_250_exchanges_and_20_in_every_category() -> None:
    counts = Counter(exchange.category for exchange in EXCHANGES)
    assert len(EXCHANGES) >= 250 and set(counts) == CATEGORIES and min(counts.values()) >= 20


def test_some_conversations_have_several_turns_and_some_a_system_prompt() -> None:
    turns = [sum(message["role"] == "assistant" for message in messages) for _, messages in CONVERSATIONS]
    assert sum(count > 1 for count in turns) >= 15
    assert sum(messages[0]["role"] == "system" for _, messages in CONVERSATIONS) >= 8


def test_roles_alternate_and_every_conversation_ends_with_an_answer() -> None:
    for _, messages in CONVERSATIONS:
        roles = [message["role"] for message in messages if message["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2) and roles
        assert "system" not in [message["role"] for message in messages[1:]]
        assert all(set(message) == {"role", "content"} for message in messages)


def test_no_text_has_white_space_around_it_or_is_empty() -> None:
    for _, messages in CONVERSATIONS:
        for message in messages:
            text = message["content"]
            assert text and text == text.strip() and not re.search(r"[ \t]\n|\n{3}|\t|\r|\u200b", text)


def test_no_two_conversations_are_the_same_or_nearly_the_same() -> None:
    openings = [next(m["content"] for m in messages if m["role"] == "user") for _, messages in CONVERSATIONS]
    assert len({text.lower() for text in openings}) == len(openings)
    texts = [word_set(" ".join(m["content"] for m in messages)) for _, messages in CONVERSATIONS]
    alike = [(openings[i], openings[j]) for i, j in combinations(range(len(texts)), 2)
             if jaccard(texts[i], texts[j]) > 0.5]  # fmt: skip
    assert not alike


def test_the_answers_teach_no_style() -> None:
    """None has a stock opening or closing; lengths differ widely; some have a list, most have none."""
    answers = [exchange.answer for exchange in EXCHANGES]
    assert not [answer for answer in answers if answer.lower().startswith(OPENINGS)]
    assert not [answer for answer in answers if any(closing in answer.lower() for closing in CLOSINGS)]
    lengths = sorted(len(answer.split()) for answer in answers)
    tenth = len(lengths) // 10
    assert lengths[tenth] <= 5 and lengths[-tenth] >= 60
    lists = sum(bool(re.search(r"^(- |1\. )", answer, re.MULTILINE)) for answer in answers)
    assert 5 <= lists <= len(answers) // 10
    first_words = Counter(answer.split()[0] for answer in answers)
    assert first_words.most_common(1)[0][1] <= len(answers) // 15


def test_an_exchange_carries_the_conversation_before_its_answer() -> None:
    later = [exchange for exchange in EXCHANGES if len(exchange.context) > 2]
    assert later and all(exchange.context[-1]["role"] == "user" for exchange in EXCHANGES)
    assert [message["role"] for message in later[0].context[-3:]] == ["user", "assistant", "user"]


@pytest.mark.parametrize("count", [1, 9, 64, 10_000])
def test_a_selection_is_fixed_balanced_and_the_beginning_of_a_larger_one(count: int) -> None:
    chosen = select(EXCHANGES, count)
    assert chosen == select(EXCHANGES, count) == select(EXCHANGES, 10_000)[:count]
    assert len(chosen) == min(count, len(EXCHANGES)) == len(set(map(repr, chosen)))
    counts = Counter(exchange.category for exchange in chosen)
    assert count > 64 or max(counts.values()) - min(counts.values()) <= 1


def test_the_digest_names_the_texts_and_their_order() -> None:
    assert digest(EXCHANGES) == digest(load()) != digest(EXCHANGES[1:]) != digest(EXCHANGES[::-1])
