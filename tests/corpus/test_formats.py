"""The readers: each log format gives the same conversations, and each invalid record gives a reason."""

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import corpus
from corpus.conversation import ROLES, Conversation, Score, Structure, ToolCall
from corpus.errors import UsageError
from corpus.formats.detect import NAMES, detect, reader, recognise
from corpus.formats.feedback import Scale, asked_scale, rated, scale_of
from corpus.formats.parts import as_time, as_tools
from corpus.lines import BadLine, RawLine, decode

ASKED = {"role": "user", "content": "Book the lathe."}
ANSWERED = {"role": "assistant", "content": "For which day?"}


def conversation(format: str, value: Any) -> Conversation:
    (read,) = reader(format)(value, 7)
    assert isinstance(read, Conversation), read
    return read


def words(conversation: Conversation) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in conversation.turns]


def reason(format: str, value: Any) -> str:
    (read,) = reader(format)(value, 7)
    assert isinstance(read, BadLine) and read.line == 7
    return read.reason


def raw(*values: Any) -> list[RawLine]:
    return [RawLine(number=n, data=json.dumps(v).encode(), end=0) for n, v in enumerate(values, start=1)]


def record(**fields: Any) -> dict[str, Any]:
    """Return a record of a Claude Code session."""
    plain = {"type": "user", "sessionId": "s1", "uuid": "u1", "timestamp": "2025-06-01T10:00:00.000Z"}
    return {**plain, **fields}


# ---------------------------------------------------------------- OpenAI


def test_openai_messages_are_turns_with_their_line_and_user() -> None:
    read = conversation("openai", {"messages": [ASKED, ANSWERED], "user": "ada"})
    assert words(read) == [("user", "Book the lathe."), ("assistant", "For which day?")]
    assert (read.source, read.key, {turn.line for turn in read.turns}) == ("ada", "", {7})


@pytest.mark.parametrize(
    "where", [{"user": "ada"}, {"metadata": {"user": "ada"}}, {"metadata": {"user_id": "ada"}}]
)
def test_openai_reads_the_user_from_every_usual_field(where: dict[str, Any]) -> None:
    assert conversation("openai", {"messages": [ASKED], **where}).source == "ada"


def test_openai_content_in_parts_is_text_and_parts_without_words_are_named() -> None:
    parts = [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {"url": "data:..."}}]
    assert words(conversation("openai", {"messages": [{"role": "user", "content": parts}]})) == [
        ("user", "Look:\n[image_url]")
    ]


def test_openai_lines_that_our_own_capture_wrote_keep_their_session_and_receipt() -> None:
    answer = {"role": "assistant", "content": "b", "receipt": "20261124-0"}
    read = conversation("openai", {"session": "s1", "messages": [ASKED, answer]})
    assert (read.session, [turn.key for turn in read.turns]) == ("s1", ["", "20261124-0"])
    odd = conversation("openai", {"session": 1, "messages": [{**answer, "receipt": None}]})
    assert (odd.session, odd.turns[0].key) == ("", "")


def test_openai_tool_calls_and_their_answers_are_turns() -> None:
    call = {"function": {"name": "book", "arguments": '{"day": "monday"}'}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "done", "tool_call_id": "1"},
    ]
    expected = [
        ("system", "Be brief."),
        ("assistant", '[tool call: book({"day": "monday"})]'),
        ("tool", "done"),
    ]
    assert words(conversation("openai", {"messages": messages})) == expected


def test_openai_ratings_and_edits_stay_with_the_answer_they_are_about() -> None:
    rated = {**ANSWERED, "rating": -1, "edited": "Done, for monday."}
    by_message = conversation("openai", {"messages": [ASKED, rated, ASKED]}).turns[1]
    by_line = conversation(
        "openai",
        {
            "messages": [ASKED, ANSWERED, ASKED],
            "feedback": {"rating": "thumbs-down", "correction": "Done, for monday."},
        },
    ).turns[1]
    assert by_message.score == Score(field="rating", value=-1.0) and by_line.rating == -1.0
    assert by_message.edited == by_line.edited == "Done, for monday."


def test_an_openai_request_that_was_captured_ends_with_its_response() -> None:
    response = {"choices": [{"message": ANSWERED}]}
    for line in (
        {"request": {"messages": [ASKED], "user": "ada"}, "response": response},
        {"request": {"body": {"messages": [ASKED], "user": "ada"}}, "response": {"body": response}},
        {"messages": [ASKED], "user": "ada", "response": "For which day?"},
    ):
        read = conversation("openai", line)
        assert len(read.turns) == 2 and read.source == "ada"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ([1], "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": []}, "no message has any text"),
        ({"messages": [{"role": "user", "content": ""}]}, "no message has any text"),
        ({"messages": ["hello"]}, "message 1: not an object"),
        ({"messages": [ASKED, {"role": "wizard", "content": "x"}]}, "message 2: unknown role"),
        ({"messages": [{"role": "user", "content": 3}]}, "content is neither"),
    ],
)
def test_an_invalid_openai_line_has_a_reason(line: Any, expected: str) -> None:
    assert expected in reason("openai", line)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        *[(True, 1), (False, -1), ("Thumbs Down", -1), ("thumbsUp", 1), ("👍", 1), ("👎🏽", -1), ("❤️", 1)],
        *[("1/5", -1), ("4/5", 0.5), ("5/5", 1), ({"rating": "good"}, 1), ([{"type": "like"}], 1)],
        *[({"value": "thumbs_down"}, -1), ([{"name": "user-feedback", "value": "bad"}], -1)],
        *[(None, None), (10**400, None), ("nan", None), (1e999, None), ("5/0", None), ([], None), ("", None)],
        ([{"name": "toxicity", "source": "EVAL", "value": True}], None),
    ],
)
def test_thumbs_words_and_fractions_are_ratings_by_themselves(given: Any, expected: float | None) -> None:
    found = rated("rating", given)
    assert found == expected or (expected is None and isinstance(found, Score))


@pytest.mark.parametrize("given", [1, "1", {"score": 1}, [1], {"type": "stars", "value": 1}])
def test_a_number_waits_for_the_scale_of_its_file(given: Any) -> None:
    assert rated("rating", given) == Score(field="rating", value=1.0)


def test_a_word_that_is_no_known_rating_is_kept_to_be_named() -> None:
    assert rated("rating", "meh") == Score(field="rating", value="meh")


@pytest.mark.parametrize(
    ("numbers", "scale"),
    [
        ({1, 2, 3, 4, 5}, (1, 5)),
        ({2, 4}, (1, 5)),
        ({0, 1}, (0, 1)),
        ({0.2, 0.9}, (0, 1)),
        ({-1}, (-1, 1)),
        ({-1, 0, 1}, (-1, 1)),
        ({3, 9}, (1, 10)),
        ({20, 80, 0}, (0, 100)),
        *[({1}, None), ({5}, None), ({1, 2}, None), ({1, 3000}, None), (set(), None)],
    ],
)
def test_a_scale_is_found_from_all_numbers_and_never_from_one(
    numbers: set[float], scale: tuple[float, float] | None
) -> None:
    found = scale_of(numbers)
    assert found == (Scale(low=scale[0], high=scale[1]) if scale else None)


def test_the_worst_number_of_a_scale_is_minus_one_and_the_best_one() -> None:
    stars = asked_scale("1..5")
    assert stars is not None
    assert [stars.rating(number) for number in (1, 3, 5, 6)] == [-1, 0, 1, None]
    assert asked_scale("five") is None and asked_scale("1..1") is None


def test_times_are_in_utc_or_missing() -> None:
    noon = datetime(2025, 6, 1, 12, tzinfo=UTC)
    for time in (
        "2025-06-01T12:00:00Z",
        "2025-06-01T14:00:00+02:00",
        "2025-06-01 12:00",
        1748779200,
        1748779200000,
    ):
        assert as_time(time) == noon
    odd: list[Any] = ["yesterday", "", -5, 10**30, True, [], "9999-12-31T23:59:59-12:00"]
    for nonsense in odd:
        assert as_time(nonsense) is None


def test_openai_keeps_the_structure_of_calls_and_results_beside_the_text() -> None:
    function = {"name": "book", "arguments": '{"day": "monday"}'}
    messages = [
        ASKED,
        {"role": "assistant", "content": "I look.", "tool_calls": [{"id": "c1", "function": function}]},
        {"role": "tool", "content": "", "tool_call_id": "c1", "name": "book"},
        ANSWERED,
    ]
    read = conversation("openai", {"messages": messages, "tools": [{"function": {"name": "book"}}, "odd"]})
    asked, called, result, answered = read.turns
    assert asked.structure is None and answered.structure is None
    assert called.text == 'I look.\n[tool call: book({"day": "monday"})]'
    assert called.structure == Structure(content="I look.", calls=(ToolCall(id="c1", **function),))
    assert (result.text, result.structure) == (
        "[no output]",
        Structure(content="", call_id="c1", name="book"),
    )
    tools = ({"function": {"name": "book"}},)
    assert [turn.tools for turn in read.turns] == [None, tools, None, tools]


def test_a_captured_line_without_tools_says_that_there_were_none() -> None:
    captured = {"messages": [ASKED, {**ANSWERED, "receipt": "20261124-0"}]}
    assert [turn.tools for turn in conversation("openai", captured).turns] == [None, ()]
    assert [turn.tools for turn in conversation("openai", {"messages": [ASKED, ANSWERED]}).turns] == [
        None
    ] * 2


def test_tools_of_every_form_are_in_openais() -> None:
    schema = {"type": "object"}
    whole = {"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}}
    forms = [whole, {"name": "f", "description": "d", "input_schema": schema}, {**whole["function"]}]
    assert as_tools(forms) == (whole,) * 3
    assert as_tools([{"type": "web_search"}, 7, {"function": {}}]) == () and as_tools("f") is None


# ---------------------------------------------------------------- ShareGPT


def test_sharegpt_is_the_same_conversation_as_in_openai_messages() -> None:
    value = {
        "conversations": [
            {"from": "human", "value": "Book the lathe."},
            {"from": "gpt", "value": "For which day?"},
        ]
    }
    assert words(conversation("sharegpt", value)) == words(
        conversation("openai", {"messages": [ASKED, ANSWERED]})
    )


def test_sharegpt_system_and_tool_speakers_have_their_roles() -> None:
    value = {
        "system": "Be brief.",
        "conversations": [{"from": "function_call", "value": "{}"}, {"from": "observation", "value": "ok"}],
    }
    assert [role for role, _ in words(conversation("sharegpt", value))] == ["system", "assistant", "tool"]


def test_an_invalid_sharegpt_object_has_a_reason() -> None:
    assert "conversations" in reason("sharegpt", {"messages": []})
    assert "unknown role" in reason("sharegpt", {"conversations": [{"from": "narrator", "value": "x"}]})


# ---------------------------------------------------------------- Claude Code


def test_claude_code_turns_arrive_one_by_one_with_keys() -> None:
    read = conversation("claude-code", record(message={"role": "user", "content": "Fix the test."}))
    assert (read.key, read.turns[0].key, read.turns[0].role) == ("s1", "u1", "user")
    assert read.turns[0].time == datetime(2025, 6, 1, 10, tzinfo=UTC)


def test_claude_code_tool_results_are_tool_turns_although_logged_as_user() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "3 passed"}]}
    read = conversation(
        "claude-code", record(message={"content": [result, {"type": "text", "text": "Good."}]})
    )
    assert words(read) == [("tool", "3 passed"), ("user", "Good.")]
    assert [turn.key for turn in read.turns] == ["u1", "u1:1"]


def test_claude_code_answers_are_words_and_calls_without_the_thinking() -> None:
    content = [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "I run it."},
        {"type": "tool_use", "name": "Bash", "input": {"command": "ls"}},
    ]
    read = conversation("claude-code", record(type="assistant", message={"model": "m", "content": content}))
    assert words(read) == [("assistant", 'I run it.\n[tool call: Bash({"command": "ls"})]')]


@pytest.mark.parametrize(
    "skipped",
    [
        {"type": "summary", "summary": "x", "leafUuid": "y"},
        {"type": "file-history-snapshot", "isSnapshotUpdate": False},
        record(type="system", content="x"),
        record(isMeta=True, message={"content": "Caveat"}),
        record(isSidechain=True, message={"content": "sub-agent"}),
        record(isCompactSummary=True, message={"content": "so far"}),
        record(
            type="assistant",
            message={"model": "<synthetic>", "content": [{"type": "text", "text": "No response"}]},
        ),
        record(type="assistant", message={"content": [{"type": "thinking", "thinking": "hm"}]}),
        record(message={"content": "<command-name>/clear</command-name>"}),
        record(message={"content": [{"type": "text", "text": "[Request interrupted by user]"}]}),
        record(message={"content": "<system-reminder>be good</system-reminder>"}),
    ],
)
def test_claude_code_records_without_a_message_are_passed_over(skipped: Any) -> None:
    assert reader("claude-code")(skipped, 1) == ()


def test_an_invalid_claude_code_record_has_a_reason() -> None:
    assert "type" in reason("claude-code", {"messages": []})
    assert "sessionId" in reason("claude-code", {"type": "user", "message": {"content": "x"}})
    assert "message" in reason("claude-code", record(message="x"))
    assert "content" in reason("claude-code", record(message={"content": 3}))


def test_claude_code_records_without_an_id_get_the_same_key_every_time() -> None:
    value = record(uuid=None, message={"content": "Fix it."})
    assert (
        conversation("claude-code", value).turns[0].key
        == conversation("claude-code", dict(value)).turns[0].key
        != ""
    )


def test_claude_code_parts_of_an_answer_name_it_and_have_their_calls() -> None:
    content = [
        {"type": "text", "text": "I run it."},
        {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "ls"}},
    ]
    read = conversation("claude-code", record(type="assistant", message={"id": "m1", "content": content}))
    call = ToolCall(name="Bash", arguments='{"command": "ls"}', id="t1")
    assert read.turns[0].structure == Structure(content="I run it.", calls=(call,), answer="m1")


def test_claude_code_results_in_one_record_are_turns_of_their_own_and_the_words_keep_their_key() -> None:
    results = [
        {"type": "tool_result", "tool_use_id": f"t{n}", "content": text}
        for n, text in enumerate("a b ".split(" "))
    ]
    read = conversation(
        "claude-code", record(message={"content": [*results, {"type": "text", "text": "Go."}]})
    )
    assert words(read) == [("tool", "a"), ("tool", "b"), ("tool", "[no output]"), ("user", "Go.")]
    assert [turn.key for turn in read.turns] == ["u1", "u1:r1", "u1:r2", "u1:1"]
    assert [turn.structure.call_id for turn in read.turns[:3] if turn.structure] == ["t0", "t1", "t2"]
    alone = conversation(
        "claude-code", record(message={"content": [results[2], {"type": "text", "text": "Go."}]})
    )
    assert [turn.key for turn in alone.turns] == ["u1:r0", "u1"]


def test_claude_code_reminders_are_what_the_model_saw_and_not_what_the_user_said() -> None:
    text = "<system-reminder>be good</system-reminder>\nFix it."
    (turn,) = conversation("claude-code", record(message={"content": text})).turns
    assert turn.text == "Fix it." and turn.structure == Structure(content=text)


def test_a_system_prompt_and_tools_beside_a_claude_code_session_are_read() -> None:
    value = record(
        type="system", message={"role": "system", "content": "Be brief."}, tools=[{"name": "Bash"}]
    )
    (turn,) = conversation("claude-code", value).turns
    assert (turn.role, turn.text) == ("system", "Be brief.")
    assert turn.tools == ({"type": "function", "function": {"name": "Bash"}},)


# ---------------------------------------------------------------- TRL


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": "Book the lathe.", "chosen": "Done.", "rejected": "For which day?"},
        {"prompt": [ASKED], "chosen": [{"role": "assistant", "content": "Done."}], "rejected": [ANSWERED]},
        {"chosen": [ASKED, {"role": "assistant", "content": "Done."}], "rejected": [ASKED, ANSWERED]},
        {
            "prompt": "Book the lathe.",
            "chosen": [ASKED, {"role": "assistant", "content": "Done."}],
            "rejected": [ASKED, ANSWERED],
        },
    ],
)
def test_trl_rejected_is_the_answer_and_chosen_its_edit(value: Any) -> None:
    read = conversation("trl", value)
    assert words(read) == [("user", "Book the lathe."), ("assistant", "For which day?")]
    assert read.turns[1].edited == "Done."


def test_trl_completions_with_a_label_are_rated_answers() -> None:
    read = conversation("trl", {"prompt": "Book the lathe.", "completion": "For which day?", "label": False})
    assert (read.turns[1].rating, read.turns[1].edited) == (-1.0, None)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"prompt": "x", "chosen": "a"}, "chosen"),
        ({"chosen": "a", "rejected": "b"}, "no prompt"),
        ({"prompt": "x", "chosen": "a", "rejected": "a"}, "the same"),
        ({"prompt": "x", "chosen": "", "rejected": "a"}, "one answer"),
        ({"prompt": "x", "chosen": 1, "rejected": "a"}, "neither"),
        ({"prompt": "x", "completion": ""}, "one answer"),
        ({"chosen": [ASKED], "rejected": [ANSWERED]}, "no prompt"),
        ({"chosen": [], "rejected": []}, "the same"),
    ],
)
def test_an_invalid_trl_line_has_a_reason(value: Any, expected: str) -> None:
    assert expected in reason("trl", value)


# ---------------------------------------------------------------- all of them

SAMPLES = Path(corpus.__file__).parent / "formats" / "samples"


def sample(name: str) -> list[Any]:
    """Return the records of a format's sample."""
    return [json.loads(line) for line in (SAMPLES / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", NAMES)
def test_every_format_is_detected_from_its_sample_despite_bad_lines(name: str) -> None:
    assert detect([BadLine(line=1, reason="x"), *raw({"a": 1}, *sample(name))]) == name


@pytest.mark.parametrize("name", NAMES)
def test_every_record_of_a_sample_is_recognised_by_its_own_reader_first(name: str) -> None:
    assert {recognise(value) for value in sample(name)} == {name}


def test_only_the_first_fifty_complete_lines_decide_the_format() -> None:
    late = [*raw(*[{"a": 1}] * 50), *raw({"messages": [ASKED]})]
    read = detect(late)
    assert isinstance(read, BadLine) and "no record" in read.reason
    assert detect([RawLine(number=1, data=b"  ", end=3)] * 60 + late[-1:]) == "openai"
    assert detect([]) is None


def test_an_unknown_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"claude-code, .*openai, .*sharegpt, .*trl"):
        reader("xml")


def test_each_of_two_thousand_mangled_records_gives_a_conversation_a_reason_or_nothing() -> None:
    draw = random.Random(2)
    odd: list[Callable[[], Any]] = [
        lambda: None,
        lambda: draw.choice([True, 0, -1, 1e308, 10**30, "", "x", "user", [], {}, [[]], [None], {"a": {}}]),
        lambda: draw.choice(
            [ASKED, [ASKED], "\ufffd", "tool_result", {"type": "text"}, {"type": "tool_result"}]
        ),
    ]  # fmt: skip

    def mangled(value: Any) -> Any:
        if draw.random() < 0.15:
            return draw.choice(odd)()
        if isinstance(value, dict):
            return {key: mangled(inner) for key, inner in value.items() if draw.random() > 0.05}
        return [mangled(inner) for inner in value] if isinstance(value, list) else value

    examples = {name: sample(name) for name in NAMES}
    for round in range(2000):
        name = NAMES[round % len(NAMES)]
        value = decode(
            RawLine(number=1, data=json.dumps(mangled(draw.choice(examples[name]))).encode(), end=0)
        )
        for other in (name, *draw.sample(NAMES, 3)):
            for read in reader(other)(value, 1):
                if isinstance(read, Conversation):
                    assert read.turns and all(turn.role in ROLES and turn.text for turn in read.turns)
                else:
                    assert isinstance(read, BadLine)
