"""An instruction in a conversation: where it stands, and that nothing else changes."""

from typing import Any

import pytest

from corpus.prompts import PLACEMENTS, instructed

TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": "Good day."},
    {"role": "user", "content": "How do I oil a hinge?"},
]
SYSTEM: dict[str, Any] = {"role": "system", "content": "You help in a workshop."}


def test_a_system_prompt_is_added_or_made_longer() -> None:
    assert instructed(TALK, "Be brief.") == [{"role": "system", "content": "Be brief."}, *TALK]
    longer = {"role": "system", "content": "You help in a workshop.\n\nBe brief."}
    assert instructed([SYSTEM, *TALK], "Be brief.", "system") == [longer, *TALK]


def test_the_end_of_the_request_is_made_longer() -> None:
    asked = {"role": "user", "content": "How do I oil a hinge?\n\nBe brief."}
    assert instructed([SYSTEM, *TALK], "Be brief.", "end") == [SYSTEM, *TALK[:-1], asked]


@pytest.mark.parametrize(("correction", "said"), [("", "Be brief."), ("Too long!", "Too long!")])
def test_hindsight_is_a_bad_answer_and_its_correction(correction: str, said: str) -> None:
    told = instructed(TALK, "Be brief.", "hindsight", answer="First, ...", correction=correction)
    bad = {"role": "assistant", "content": "First, ..."}
    assert told == [*TALK, bad, {"role": "user", "content": said}]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_conversation_itself_is_not_changed(placement: Any) -> None:
    talk = [dict(message) for message in (SYSTEM, *TALK)]
    instructed(talk, "Be brief.", placement, answer="Well.")
    assert talk == [SYSTEM, *TALK]
