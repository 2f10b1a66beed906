"""A turn is read with all that was said before it, and with nothing that came later."""

from agents.readout.turns import prefixes


def test_each_turn_is_read_with_what_was_said_before_it_on_one_line() -> None:
    assert prefixes(["Book the\n bench.", "For when?", " ", "Monday."]) == [
        "Book the bench.",
        "Book the bench. For when?",
        "Book the bench. For when?",
        "Book the bench. For when? Monday.",
    ]


def test_what_comes_later_changes_no_earlier_reading() -> None:
    assert prefixes(["a", "b", "c"])[:2] == prefixes(["a", "b"])
