"""A turn is read with all that was said before it, and with nothing that came later."""

from agents.readout.turns import WINDOW, said_until
from corpus.concept_sets import NAMES


def test_each_turn_is_read_with_what_was_said_before_it_on_one_line() -> None:
    assert said_until(["Book the\n bench.", "For when?", " ", "Monday."]) == [
        "Book the bench.",
        "Book the bench. For when?",
        "Book the bench. For when?",
        "Book the bench. For when? Monday.",
    ]


def test_what_comes_later_changes_no_earlier_reading() -> None:
    for window in (1, 2, None):
        assert said_until(["a", "b", "c"], window)[:2] == said_until(["a", "b"], window)


def test_where_the_vectors_texts_are_exchanges_a_turn_is_read_with_the_one_before_it() -> None:
    assert said_until(["a", "b", "c", "d"], WINDOW["world"]) == ["a", "a b", "b c", "c d"]
    assert set(WINDOW) == set(NAMES)
