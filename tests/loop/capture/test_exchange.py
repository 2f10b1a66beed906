"""The captured line of one exchange, as a pure function."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from corpus.conversation import Conversation, Turn
from corpus.formats.interfaces import openai
from corpus.lines import RawLine, decode
from loop.capture.exchange import REASONS, ChatRequest, Refusal, as_line, parse_request, parse_response

QUESTION = {"role": "user", "content": "Please book the bench."}
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def request(**fields: Any) -> bytes:
    return json.dumps({"messages": [QUESTION], **fields}).encode()


def answer(**choice: Any) -> bytes:
    whole = {
        "index": 0,
        "message": {"role": "assistant", "content": "For which day?"},
        "finish_reason": "stop",
    }
    return json.dumps({"choices": [{**whole, **choice}]}).encode()


def stream(*chunks: Any, ends: str = "data: [DONE]\n\n", newline: str = "\n") -> bytes:
    text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + ends
    return text.replace("\n", newline).encode()


def piece(content: str | None, reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content, **delta}, "finish_reason": reason}]}


def read(line: bytes | Refusal) -> Conversation:
    """Read the line as ingest does."""
    assert isinstance(line, bytes) and line.count(b"\n") == 1
    conversation = openai.read(decode(RawLine(number=1, data=line[:-1], end=len(line))), 1)
    assert isinstance(conversation, Conversation)
    return conversation


def captured(ask: bytes, raw: bytes, *, streamed: bool = False, session: str = "") -> Conversation:
    """Return the conversation that ingest reads from the line of a request and its answer."""
    request_read, answer_read = parse_request(ask), parse_response(raw, streamed=streamed)
    assert isinstance(request_read, ChatRequest) and isinstance(answer_read, Turn)
    return read(as_line(request_read, answer_read, receipt="r", source="caller-1", session=session, at=NOON))


def texts(conversation: Conversation) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in conversation.turns]


def test_the_messages_and_the_answer_are_one_conversation_of_the_user_in_the_request() -> None:
    heard = captured(request(user="ada"), answer(), session="s1")
    assert texts(heard) == [("user", "Please book the bench."), ("assistant", "For which day?")]
    assert (heard.source, heard.session) == ("ada", "s1")
    assert (heard.turns[1].key, heard.turns[1].time) == ("r", NOON)


@pytest.mark.parametrize(
    "fields, source",
    [
        ({}, "caller-1"),
        ({"user": ""}, "caller-1"),
        ({"user": 7}, "7"),
        ({"safety_identifier": "ada"}, "ada"),
        ({"metadata": {"user_id": "ada"}}, "ada"),
    ],
)
def test_the_source_is_the_user_in_the_request_or_else_the_credential(fields: Any, source: str) -> None:
    assert captured(request(**fields), answer()).source == source


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_pieces_of_a_stream_make_the_answer(newline: str) -> None:
    usage = {"choices": [], "usage": {"total_tokens": 9}}
    raw = stream(
        piece("", role="assistant"),
        piece("For which "),
        piece("day?"),
        piece(None, "stop"),
        usage,
        newline=newline,
    )
    assert texts(captured(request(), raw, streamed=True))[1] == ("assistant", "For which day?")


def test_streamed_tool_calls_are_written_as_clients_repeat_them() -> None:
    first = {"index": 0, "id": "c1", "function": {"name": "book", "arguments": ""}}
    calls = [
        [first],
        [{"index": 0, "function": {"arguments": '{"day"'}}],
        [{"index": 0, "function": {"arguments": ": 1}"}}],
    ]
    raw = stream(*(piece(None, tool_calls=call) for call in calls), piece(None, "tool_calls"))
    whole = [{"id": "c1", "type": "function", "function": {"name": "book", "arguments": '{"day": 1}'}}]
    message = {"role": "assistant", "content": None, "tool_calls": whole}
    plain = captured(request(), answer(message=message, finish_reason="tool_calls"))
    later = captured(request(messages=[QUESTION, message, {"role": "tool", "content": "done"}]), answer())
    assert texts(captured(request(), raw, streamed=True)) == texts(plain) == texts(later)[:2]


@pytest.mark.parametrize(
    "raw, word",
    [
        (stream(piece("For which "), piece(None, "stop"), ends=""), "broken"),
        (stream(piece("For which "), piece(None, "stop"), ends="data: [DONE]"), "broken"),
        (stream(piece("For which ")), "broken"),
        (stream(piece("For"), {"error": {"message": "out of memory"}}), "broken"),
        (stream(piece("For"), piece(None, "abort")), "broken"),
        (stream(piece(" "), piece(None, "stop")), "empty"),
        (b"", "broken"),
        (b"\xff\n\n", "broken"),
    ],
)
def test_a_stream_that_did_not_end_is_not_captured(raw: bytes, word: str) -> None:
    assert parse_response(raw, streamed=True) == Refusal(word=word)


@pytest.mark.parametrize(
    "raw, word",
    [
        (b'{"choices": [', "broken"),
        (b'{"choices": []}', "broken"),
        (b"[" * 100_000, "broken"),
        (answer(finish_reason=None), "broken"),
        (answer(finish_reason="abort"), "broken"),
        (answer(index=1), "broken"),
        (answer(message=None), "empty"),
        (answer(message={"role": "assistant", "content": None}), "empty"),
        (answer(message={"role": "assistant", "content": 7}), "empty"),
    ],
)
def test_an_incomplete_answer_is_not_captured(raw: bytes, word: str) -> None:
    assert parse_response(raw, streamed=False) == Refusal(word=word)


@pytest.mark.parametrize(
    "body, word",
    [
        (b"", "request"),
        (b"[]", "request"),
        (b"[" * 100_000, "request"),
        (request(messages=[]), "request"),
        (request(messages="no"), "request"),
        (request(messages=[{"role": "stranger", "content": "x"}]), "request"),
        (request(messages=[{"role": "user", "content": " "}]), "request"),
        (request(messages=[QUESTION, {"role": "assistant", "content": "For"}]), "request"),
        (request(n=2), "choices"),
        (request(steer={"joy": 2.0}), "steered"),
    ],
)
def test_a_request_without_a_conversation_of_the_models_own_is_refused_with_a_reason(
    body: bytes, word: str
) -> None:
    assert parse_request(body) == Refusal(word=word)
    assert REASONS[word]


def test_an_image_is_named_and_not_stored() -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:AAAA"}},
    ]
    heard = captured(request(messages=[{"role": "user", "content": parts}]), answer())
    assert heard.turns[0].text == "What is this?\n[image_url]"


def test_a_caller_cannot_forge_the_receipt_of_another() -> None:
    heard = captured(request(messages=[{**QUESTION, "receipt": "stolen"}]), answer())
    assert [turn.key for turn in heard.turns] == ["", "r"]


def test_text_that_cannot_be_stored_or_is_too_long_is_refused() -> None:
    half = {"role": "assistant", "content": "\ud83d"}
    long = {"role": "user", "content": "x" * 2**24}
    for ask, raw, word in (
        (request(), answer(message=half), "text"),
        (request(messages=[long]), answer(), "long"),
    ):
        request_read, answer_read = parse_request(ask), parse_response(raw, streamed=False)
        assert isinstance(request_read, ChatRequest) and isinstance(answer_read, Turn)
        assert as_line(request_read, answer_read, receipt="r", source="s", session="", at=NOON) == Refusal(
            word=word
        )
