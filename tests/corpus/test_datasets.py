"""Readers of published data sets."""

from typing import Any

import pytest

from corpus.conversation import Conversation
from corpus.formats.detect import reader, recognise
from corpus.formats.format import Part
from corpus.lines import BadLine
from tests.corpus.test_sessions import parts

Q, GOOD, BAD = "Mend the lathe.", "It runs.", "What lathe?"


def told(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def read(name: str, record: Any) -> tuple[Part, ...]:
    assert recognise(record) == name
    return reader(name)(record, 7)


def last(part: Part) -> tuple[str, float | None, str | None]:
    assert isinstance(part, Conversation), part
    return part.turns[-1].text, part.turns[-1].rating, part.turns[-1].edited


def votes(winner: Any, **more: Any) -> dict[str, Any]:
    a, b = [told("user", Q), told("assistant", GOOD)], [told("user", Q), told("assistant", BAD)]
    return {
        "model_a": "x",
        "model_b": "y",
        "winner": winner,
        "conversation_a": a,
        "conversation_b": b,
        **more,
    }


@pytest.mark.parametrize(
    ("winner", "expected"),
    [
        ("model_a", [(BAD, None, GOOD)]),
        ("model_b", [(GOOD, None, BAD)]),
        ("tie", [(GOOD, None, None), (BAD, None, None)]),
        ("tie (bothbad)", [(GOOD, -1, None), (BAD, -1, None)]),
    ],
)
def test_a_vote_of_the_arena_is_a_preference_and_a_tie_is_none(winner: str, expected: Any) -> None:
    assert [last(part) for part in read("arena", votes(winner))] == expected


def test_a_vote_after_different_answers_rates_the_side_that_lost() -> None:
    side = [told("user", Q), told("assistant", "Which?"), told("user", "Mine."), told("assistant", BAD)]
    assert [last(part) for part in read("arena", votes("model_a", conversation_b=side))] == [(BAD, -1, None)]


def test_a_vote_that_is_not_understood_is_named() -> None:
    (fault,) = read("arena", votes("referee"))
    assert isinstance(fault, BadLine) and "winner" in fault.reason


def test_messages_of_oasst_make_trees_and_worse_answers_have_the_best_as_their_edit() -> None:
    def message(id: str, parent: str | None, role: str, text: str, **more: Any) -> dict[str, Any]:
        return {"message_id": id, "parent_id": parent, "role": role, "text": text, **more}

    read = parts(
        "oasst",
        message("c", "a", "assistant", BAD, rank=1),
        message("a", None, "prompter", Q, rank=None),
        message("d", "a", "assistant", "spam", rank=2, deleted=True),
        message("b", "a", "assistant", GOOD, rank=0),
        message("e", "b", "prompter", "Thanks."),
    )
    assert [last(part) for part in read] == [(GOOD, None, None), (BAD, None, GOOD)]
    assert isinstance(read[1], Conversation) and read[1].copied == 1


def test_the_worst_completion_of_ultrafeedback_has_the_best_as_its_edit() -> None:
    texts = ((GOOD, 8.5), ("Maybe.", 5), (BAD, 1.0))
    completions = [{"response": text, "overall_score": score} for text, score in texts]
    assert last(read("ultrafeedback", {"instruction": Q, "completions": completions})[0]) == (BAD, None, GOOD)
    (fault,) = read("ultrafeedback", {"instruction": Q, "completions": completions[:1]})
    assert isinstance(fault, BadLine)


def test_alpaca_records_have_their_history_their_input_and_their_label() -> None:
    record = {"instruction": Q, "input": "It is old.", "output": GOOD, "system": "Be brief.",
              "history": [["Hello.", "Good day."]], "kto_tag": False}  # fmt: skip
    (part,) = read("alpaca", record)
    assert isinstance(part, Conversation)
    assert [turn.text for turn in part.turns] == [
        "Be brief.",
        "Hello.",
        "Good day.",
        f"{Q}\nIt is old.",
        GOOD,
    ]
    assert last(part)[1] == -1


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"prompt": Q, "completion": GOOD}, (GOOD, None, None)),
        ({"prompt": [told("user", Q)], "completion": [told("assistant", GOOD)]}, (GOOD, None, None)),
        ({"prompt": Q, "completions": ["It", "runs."], "labels": [True, False]}, ("It\nruns.", -1, None)),
        ({"prompt": Q, "completions": ["It", "runs."], "labels": [True, True]}, ("It\nruns.", 1, None)),
    ],
)
def test_completions_of_trl_are_answers_rated_or_not_in_one_piece_or_in_steps(
    record: Any, expected: Any
) -> None:
    assert last(read("trl", record)[0]) == expected


def test_a_hashed_address_is_the_source_of_a_wildchat_conversation() -> None:
    messages = [{**told("user", Q), "hashed_ip": "f00"}, told("assistant", GOOD)]
    (part,) = read("lmsys", {"conversation_hash": "h", "conversation": messages})
    assert isinstance(part, Conversation) and part.source == "f00" and len(part.turns) == 2
