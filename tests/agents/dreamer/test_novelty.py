"""Near-duplicates: neither order nor punctuation nor capitals make a dream new."""

import random

import pytest

from agents.dreamer.novelty import NEAR, NoveltyFilter
from corpus.text import jaccard, word_set


@pytest.mark.parametrize(
    "text",
    [
        "I have decided to paint the door.",
        "i HAVE decided: to paint the door!!",
        "The door, to paint I have decided",
        "door door paint the I have decided to",
        "  I\thave\ndecided to paint the door ",
    ],
)
def test_the_same_words_in_another_order_or_case_are_near(text: str) -> None:
    assert NoveltyFilter(["I have decided to paint the door."]).near(text)


@pytest.mark.parametrize(
    "text",
    [
        "I have decided to paint the gate.",
        "I have decided to oil the door.",
        "Let us paint the door.",
        "Paint it.",
    ],
)
def test_one_exchanged_word_in_a_short_text_is_a_new_situation(text: str) -> None:
    assert not NoveltyFilter(["I have decided to paint the door."]).near(text)


def test_an_added_word_in_a_long_text_is_not_a_new_situation() -> None:
    text = "explain it fully how do i paint the old green door"
    assert NoveltyFilter([text]).near(f"{text} please") and NoveltyFilter([f"{text} please"]).near(text)


def test_a_text_without_words_is_never_new() -> None:
    assert NoveltyFilter([]).near("") and NoveltyFilter([]).near("?! ...")


def test_an_empty_index_has_nothing_near() -> None:
    assert not NoveltyFilter([]).near("paint the door")


def test_letters_of_every_script_count() -> None:
    seen = NoveltyFilter(["\u043f\u043e\u043a\u0440\u0430\u0441\u044c \u0434\u0432\u0435\u0440\u044c"])
    assert seen.near("\u0414\u0412\u0415\u0420\u042c \u041f\u041e\u041a\u0420\u0410\u0421\u042c!")
    assert not seen.near("\u043f\u043e\u043c\u043e\u0439 \u0434\u0432\u0435\u0440\u044c")


def test_similarity_is_symmetric_one_for_equal_sets_and_as_computed_by_hand_between() -> None:
    a, b = word_set("paint the door now"), word_set("paint the door")
    assert jaccard(a, b) == jaccard(b, a) == 3 / 4
    assert jaccard(a, a) == jaccard(frozenset(), frozenset()) == 1.0
    assert jaccard(a, frozenset()) == 0.0


def near_by_brute_force(texts: list[str], text: str) -> bool:
    words = word_set(text)
    return not words or any(jaccard(words, word_set(other)) >= NEAR for other in texts)


@pytest.mark.parametrize("vocabulary", [3, 12, 40])
def test_the_index_agrees_with_a_comparison_with_every_text(vocabulary: int) -> None:
    rng, agreed = random.Random(vocabulary), {True: 0, False: 0}
    for _ in range(60):
        names = [f"w{number}" for number in range(vocabulary)]
        texts = [" ".join(rng.choices(names, k=rng.randrange(1, 45))) for _ in range(20)]
        seen = NoveltyFilter(texts[:10])
        for text in texts[10:]:
            seen.add(text)
        for _ in range(30):
            base = rng.choice(texts).split()
            for _ in range(rng.randrange(4)):
                change = rng.choice(("add", "drop", "swap"))
                if change != "add" and base:
                    base.pop(rng.randrange(len(base)))
                if change != "drop":
                    base.append(rng.choice([*names, "new", "newer"]))
            text = " ".join(base)
            expected = near_by_brute_force(texts, text)
            assert seen.near(text) == expected, text
            agreed[expected] += 1
    assert min(agreed.values()) > 100  # both answers were really put to the test


def test_a_text_of_ten_words_is_near_to_the_same_text_without_its_rarest_word() -> None:
    """9 of 10 words are shared: the similarity is exactly 0.9, and the rarest word is missing."""
    short = "one two three four five six seven eight nine"
    assert NoveltyFilter([short, short + " filler filler2"]).near(f"{short} rarest")
