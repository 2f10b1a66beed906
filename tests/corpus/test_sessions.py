"""Readers whose records are gathered by session: coding agents, chat files, threads."""

from typing import Any

import pytest

from corpus.conversation import Conversation
from corpus.formats.detect import named, recognise
from corpus.formats.format import Part
from corpus.lines import BadLine

Words = list[list[tuple[str, str]]]


def parts(name: str, *records: Any) -> list[Part]:
    join = named(name).join
    assert join is not None and {recognise(record) for record in records} <= {name, None}
    return list(join(enumerate(records, start=1)))


def words(name: str, *records: Any) -> Words:
    read = parts(name, *records)
    assert all(isinstance(part, Conversation) for part in read), read
    return [
        [(turn.role, turn.text) for turn in part.turns] for part in read if isinstance(part, Conversation)
    ]


def item(role: str, text: str, **more: Any) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}], **more}


def kept(payload: Any, kind: str = "response_item") -> dict[str, Any]:
    return {"timestamp": "2026-02-03T04:05:06.700Z", "type": kind, "payload": payload}


META = kept({"id": "s1", "cwd": "/work"}, "session_meta")
ASKED, ANSWERED = item("user", "Mend the lathe."), item("assistant", "It runs.")
BOTH = [[("user", "Mend the lathe."), ("assistant", "It runs.")]]


# ---------------------------------------------------------------- Codex


@pytest.mark.parametrize(
    "records",
    [
        [META, kept(ASKED), kept(ANSWERED)],
        [{"id": "s1", "timestamp": "2025-06-01T10:00:00Z", "instructions": None}, ASKED, ANSWERED],
        [{"id": "s1", "timestamp": "2025-06-01T10:00:00Z"}, ASKED, {"record_type": "state"}, ANSWERED],
        [{"session": {"id": "s1", "timestamp": "2025-05-01T10:00:00Z"}, "items": [ASKED, ANSWERED]}],
        [{"prompt": "Mend the lathe."}, {"id": "0", "msg": {"type": "agent_message", "message": "It runs."}}],
    ],
)
def test_a_codex_session_of_every_version_is_its_messages(records: list[Any]) -> None:
    assert words("codex", *records) == BOTH


def test_what_the_codex_client_wrote_and_events_are_nobodys_words() -> None:
    machine = [
        kept(item("developer", "<permissions instructions>all</permissions instructions>")),
        kept(item("user", "# AGENTS.md instructions for /work\n\n<INSTRUCTIONS>Be brief.</INSTRUCTIONS>")),
        kept(item("user", "<environment_context>linux</environment_context>")),
        kept({"type": "user_message", "message": "Mend the lathe."}, "event_msg"),
        kept({"type": "reasoning", "summary": [], "encrypted_content": "x"}),
        kept({"model": "m"}, "turn_context"),
        kept({"message": "so far", "replacement_history": []}, "compacted"),
    ]
    assert words("codex", META, *machine, kept(ASKED), kept(ANSWERED)) == BOTH


def test_only_the_request_counts_of_what_an_editor_sends_to_codex() -> None:
    text = (
        "# Context from my IDE setup:\n\n## Open tabs:\n- a.py\n\n## My request for Codex:\nMend the lathe.\n"
    )
    assert words("codex", META, kept(item("user", text)), kept(ANSWERED)) == BOTH


def test_codex_calls_of_tools_have_their_results_and_pieces_of_an_answer_are_one() -> None:
    call = {"type": "function_call", "name": "shell", "arguments": '{"command": "ls"}', "call_id": "c1"}
    result = {"type": "function_call_output", "call_id": "c1", "output": '{"output": "a b", "metadata": {}}'}
    read = words("codex", META, kept(ASKED), kept(item("assistant", "I look.")), kept(call), kept(result))
    assert read == [
        [
            ("user", "Mend the lathe."),
            ("assistant", 'I look.\n[tool call: shell({"command": "ls"})]'),
            ("tool", "a b"),
        ]
    ]


def test_prompts_that_were_taken_back_in_codex_are_no_part_of_the_session() -> None:
    back = kept({"type": "thread_rolled_back", "num_turns": 1}, "event_msg")
    again = [kept(item("user", "Oil it.")), kept(item("assistant", "Oiled."))]
    assert words("codex", META, *again, back, kept(ASKED), kept(ANSWERED)) == BOTH


def test_the_beginning_of_a_forked_codex_session_has_the_keys_of_the_first() -> None:
    fork = kept({"id": "s2", "cwd": "/work"}, "session_meta")
    (first,) = parts("codex", META, kept(ASKED), kept(ANSWERED))
    (second,) = parts("codex", fork, META, kept(ASKED), kept(ANSWERED), kept(item("user", "Oil it.")))
    (named_,) = parts("codex", kept({"id": "s3", "forked_from_id": "s1"}, "session_meta"), kept(ASKED))
    (other,) = parts("codex", kept({"id": "s4"}, "session_meta"), kept(ASKED))
    read = [part for part in (first, second, named_, other) if isinstance(part, Conversation)]
    assert [part.key for part in read] == ["s1", "s2", "s3", "s4"]
    assert [turn.key for turn in read[1].turns[:2]] == [turn.key for turn in read[0].turns]
    assert read[2].turns[0].key == read[0].turns[0].key != read[3].turns[0].key


def test_the_stream_of_codex_exec_gives_answers_and_commands() -> None:
    command = {"id": "i1", "type": "command_execution", "command": "ls", "aggregated_output": "a b"}
    records = [
        {"type": "thread.started", "thread_id": "t1"},
        {"type": "turn.started"},
        {"type": "item.completed", "item": {"id": "i0", "type": "reasoning", "text": "hm"}},
        {"type": "item.completed", "item": command},
        {
            "type": "item.completed",
            "item": {"id": "i2", "item_type": "assistant_message", "text": "It runs."},
        },
        {"type": "turn.completed", "usage": {}},
    ]
    assert [role for role, _ in words("codex", *records)[0]] == ["assistant", "tool", "assistant"]


def test_a_codex_item_of_an_unknown_type_is_named() -> None:
    (fault, _) = parts("codex", META, kept({"type": "hologram"}), kept(ASKED))
    assert isinstance(fault, BadLine) and fault.line == 2 and "hologram" in fault.reason


# ---------------------------------------------------------------- OpenCode, Cursor, Aider


def told(id: str, role: str, *its: Any, at: int) -> dict[str, Any]:
    return {"info": {"id": id, "role": role, "time": {"created": at}}, "parts": list(its)}


def text(id: str, said: str, **more: Any) -> dict[str, Any]:
    return {"id": id, "type": "text", "text": said, **more}


def test_an_opencode_session_ends_where_the_user_took_it_back() -> None:
    messages = [
        told("m1", "user", text("p2", "a file", synthetic=True), text("p1", "Mend the lathe."), at=1),
        told("m2", "assistant", text("p3", "It runs."), at=2),
        told("m3", "user", text("p4", "Oil it."), at=3),
    ]
    assert (
        words("opencode", {"info": {"id": "s", "revert": {"messageID": "m3"}}, "messages": messages}) == BOTH
    )


def test_rows_of_opencode_are_joined_and_sessions_of_sub_agents_left_out() -> None:
    rows = [
        {"table": "session", "id": "s", "project_id": "p", "directory": "/", "data": None},
        {"table": "session", "id": "sub", "project_id": "p", "parent_id": "s", "data": None},
        {
            "table": "message",
            "id": "m2",
            "session_id": "s",
            "time_created": 2,
            "data": '{"role": "assistant"}',
        },
        {"table": "message", "id": "m1", "session_id": "s", "time_created": 1, "data": '{"role": "user"}'},
        {"table": "message", "id": "m9", "session_id": "sub", "time_created": 1, "data": '{"role": "user"}'},
        {
            "table": "part",
            "id": "1",
            "message_id": "m1",
            "data": '{"type": "text", "text": "Mend the lathe."}',
        },
        {"table": "part", "id": "2", "message_id": "m2", "data": '{"type": "text", "text": "It runs."}'},
        {"table": "part", "id": "3", "message_id": "m9", "data": '{"type": "text", "text": "Search."}'},
    ]
    assert words("opencode", *rows) == BOTH


def test_a_cursor_composer_with_its_bubbles_in_it_and_a_transcript_are_read() -> None:
    held = '{"composerId": "c", "conversation": [{"bubbleId": "a", "type": 1, "text": "Mend the lathe."},'
    held += '{"bubbleId": "x", "type": 2, "text": ""}, {"bubbleId": "b", "type": 2, "text": "It runs."}]}'
    assert words("cursor", {"key": "composerData:c", "value": held}) == BOTH
    asked = {"content": [{"type": "text", "text": "<user_query>\nMend the lathe.\n</user_query>"}]}
    answered = {"content": [{"type": "text", "text": "It runs."}]}
    assert (
        words("cursor", {"role": "user", "message": asked}, {"role": "assistant", "message": answered})
        == BOTH
    )


def test_commands_of_aider_and_its_notices_are_nobodys_words() -> None:
    lines = [
        "# aider chat started at 2026-01-01 10:00:00", "> Aider v0.86", "#### /add a.py", "> Added a.py",
        "#### /ask Is the lathe  ", "#### mended?  ", "", "It runs.", "", "Oil it.", "", "> Tokens: 1k",
    ]  # fmt: skip
    read = named("aider").read({"aider": lines}, 1)
    assert isinstance(read, tuple) and isinstance(read[0], Conversation)
    said = [(turn.role, turn.text, turn.line) for turn in read[0].turns]
    assert said == [("user", "Is the lathe\nmended?", 5), ("assistant", "It runs.\n\nOil it.", 8)]


# ---------------------------------------------------------------- chats


def test_threads_whose_newest_message_is_first_are_put_in_order() -> None:
    def line(id: str, role: str, said: str, at: int) -> dict[str, Any]:
        content = [{"type": "text", "text": {"value": said, "annotations": []}}]
        return {"id": id, "thread_id": "t", "role": role, "content": content, "created_at": at}

    newest_first = [line("b", "assistant", "It runs.", 5), line("a", "user", "Mend the lathe.", 4)]
    assert words("jan", *newest_first) == BOTH


def test_llm_responses_of_a_conversation_follow_each_other_with_the_system_prompt_once() -> None:
    def row(id: str, prompt: str, response: str, **more: Any) -> dict[str, Any]:
        time = f"2026-01-01T10:00:0{id}"
        return {"id": id, "model": "m", "prompt": prompt, "response": response, "datetime_utc": time, **more}

    rows = [
        row("2", "And?", "Oiled.", conversation_id="c", system="Be brief."),
        row("1", "Mend the lathe.", "It runs.", conversation_id="c", system="Be brief."),
        row("3", "", "Fine.", prompt_fragments=[{"content": "A file."}]),
    ]
    first, second = words("llm", *rows)
    assert first == [("system", "Be brief."), *BOTH[0], ("user", "And?"), ("assistant", "Oiled.")]
    assert second == [("user", "A file."), ("assistant", "Fine.")]


def test_sillytavern_messages_that_are_hidden_from_the_model_give_nothing() -> None:
    def line(said: str, user: bool, **more: Any) -> dict[str, Any]:
        return {"name": "x", "is_user": user, "mes": said, "send_date": "2024-07-12@10h03m00s", **more}

    header = {"user_name": "unused", "character_name": "Guide"}
    lines = [line("Mend the lathe.", True), line("note", False, is_system=True), line("It runs.", False)]
    (read,) = parts("sillytavern", header, *lines)
    assert isinstance(read, Conversation) and read.source == ""
    assert [turn.text for turn in read.turns] == ["Mend the lathe.", "It runs."]
    assert read.turns[0].time is not None and read.turns[0].time.hour == 10


def test_a_message_in_an_unknown_shape_ends_its_session_with_its_question() -> None:
    lines = [
        {"id": n, "thread_id": "t", "role": role, "content": content}
        for n, role, content in (
            ("a", "user", "Mend the lathe."), ("b", "assistant", "It runs."),
            ("c", "user", "And now?"), ("d", "assistant", [{"blob": 1}]), ("e", "user", "Thanks."),
        )
    ]  # fmt: skip
    fault, read = parts("jan", *lines)
    assert isinstance(fault, BadLine) and fault.line == 4 and "its keys: blob" in fault.reason
    assert isinstance(read, Conversation) and len(read.turns) == 2
