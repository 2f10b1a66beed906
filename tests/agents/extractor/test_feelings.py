"""Feeling tags: few, computed from the text alone, never without evidence."""

import pytest

from agents.extractor.feelings import FEELINGS, feelings, strongest


@pytest.mark.parametrize(
    ("text", "feeling"),
    [
        ("ugh, why do you always do this??", "frustrated"),
        ("Thank you so much!", "grateful"),
        ("Careful, that is dangerous.", "worried"),
        ("I wonder how that works", "curious"),
        ("Perfect, exactly that.", "pleased"),
        ("Quick, the customer is waiting", "hurried"),
        ("I am so tired today", "tired"),
    ],
)
def test_feelings_are_read_from_words(text: str, feeling: str) -> None:
    scores = feelings(text)
    assert max(scores, key=lambda name: scores[name]) == feeling
    assert set(scores) <= set(FEELINGS) and all(0 < score <= 1 for score in scores.values())


def test_plain_words_have_no_feeling() -> None:
    assert feelings("Please book the bench for monday.") == {}
    assert feelings("") == {}


def test_shouting_makes_frustration_stronger() -> None:
    calm, loud = feelings("stop it, again wrong"), feelings("STOP IT!!! again wrong")
    assert 0 < calm["frustrated"] < loud["frustrated"] <= 1


def test_ironic_thanks_is_not_only_gratitude() -> None:
    assert feelings("thanks, this is useless")["grateful"] < feelings("thanks")["grateful"]


def test_the_strongest_score_of_each_feeling_is_kept() -> None:
    assert strongest({"tired": 0.2}, {"tired": 0.5, "curious": 0.1}, {}) == {"curious": 0.1, "tired": 0.5}
