"""Make a line of a log from one exchange with the served model: a request and its answer.

A chat client repeats the whole history in each request. So the messages of a request and the answer are the
whole conversation so far, and ingest recognises the part that it already has.

Invariant: pure. Only a complete answer gives a line. `corpus.formats.interfaces.openai` can read every
line. A line contains text only, without secrets; a picture, for example, is replaced by a note that there was
one. Every refusal is one of REASONS. This module knows nothing about files or HTTP.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from corpus.aliases import Json
from corpus.context import message_of
from corpus.conversation import Turn
from corpus.formats.exchange import tools_of
from corpus.formats.messages import turns_of
from corpus.formats.parts import user_of
from corpus.json_edge import parse
from corpus.lines import MAX_LINE, BadLine
from corpus.scrub.patterns import Clean, scrub, scrub_name, scrub_tool, scrub_turn

REASONS = {
    "off": "http.capture is off",
    "side": "X-Turn-Type was not main",
    "choices": "more than one answer was asked for",
    "steered": "the answer was steered: it is not the model's own",
    "request": "the request has no messages that can be read, or asks to continue an answer",
    "error": "the model server did not answer, or with an error",
    "broken": "the answer broke off: the caller hung up, or the model server did",
    "empty": "the answer has no words",
    "long": f"it is longer than {MAX_LINE // 2**20} MiB",
    "text": "its text cannot be stored",
    "disk": "it could not be written to the disk; see the service's log",
}
"""The reasons why an exchange is not captured: a word for programs, and the explanation for users."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """The reason why an exchange is not captured."""

    word: str
    """A key of REASONS."""


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
    """The conversation in the body of a request, up to the answer."""

    turns: tuple[Turn, ...]
    user: str
    """Name of the user, if the request gives one; else ""."""
    tools: tuple[Json, ...] = ()
    """Definitions of the tools that the request offers to the model."""


def parse_request(body: bytes) -> ChatRequest | Refusal:
    """Return the conversation in the body of a request, or the reason why it is not captured."""
    request = _object(body)
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        return Refusal(word="request")
    if request.get("n") not in (None, 1):
        return Refusal(word="choices")
    if request.get("steer"):
        return Refusal(word="steered")
    turns = turns_of(messages, 0)
    if isinstance(turns, BadLine) or not turns or turns[-1].role == "assistant":
        return Refusal(word="request")
    metadata, safety = request.get("metadata"), {"user": request.get("safety_identifier")}
    user = user_of(request, metadata, safety)
    return ChatRequest(turns=turns, user=user, tools=tools_of(request) or ())


def parse_response(raw: bytes, *, streamed: bool) -> Turn | Refusal:
    """Return the answer in the body of a response, or the reason why it is not captured.

    streamed: whether the body is a stream of server-sent events, and not one JSON object.
    """
    choice = _assembled(raw) if streamed else _choice(_object(raw))
    if choice is None or choice.get("finish_reason") in (None, "abort", "error"):
        return Refusal(word="broken")
    message = choice.get("message")
    turns = turns_of([{**message, "role": "assistant"}], 0) if isinstance(message, dict) else ()
    return turns[0] if isinstance(turns, tuple) and turns else Refusal(word="empty")


def as_line(
    request: ChatRequest,
    answer: Turn,
    *,
    receipt: str,
    source: str,
    session: str,
    at: datetime,
    clean: Clean = scrub,
) -> bytes | Refusal:
    """Return the line of the log for an exchange, with its newline, or the reason why there is none.

    Args:
        request: The conversation up to the answer.
        answer: The answer.
        receipt: The id of the exchange.
        source: Name of the caller, which is used if the request names no user.
        session: The client's id of the conversation; "" if the client sent none.
        at: The time at which the answer ended.
        clean: Removes from a text what the home does not store.
    """
    if not all(_is_text(turn) for turn in (*request.turns, answer)):
        return Refusal(word="text")
    last = {**_message(answer, clean), "timestamp": at.isoformat(timespec="milliseconds"), "receipt": receipt}
    named = {"user": request.user or source, **({"session": session} if session else {})}
    head = {key: scrub_name(name, clean) for key, name in named.items()}
    tools = {"tools": [scrub_tool(tool, clean) for tool in request.tools]} if request.tools else {}
    messages = [*(_message(turn, clean) for turn in request.turns), last]
    value = {**head, "messages": messages, **tools}
    line = json.dumps(value, ensure_ascii=False).encode() + b"\n"
    return line if len(line) <= MAX_LINE else Refusal(word="long")


def _is_text(turn: Turn) -> bool:
    """Return whether a turn can be stored as it is: it has no half of a surrogate pair."""
    texts = turn.text, turn.edited or "", turn.structure.content if turn.structure else ""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True


def _message(turn: Turn, clean: Clean) -> dict[str, Any]:
    """Return a turn as a message of the log, without secrets: what ingest would remove is not written."""
    time = turn.time.isoformat() if turn.time else None
    cleaned, rating = scrub_turn(turn, clean), turn.score.value if turn.score else turn.rating
    more = {"timestamp": time, "rating": rating, "edited": cleaned.edited}
    return {**message_of(cleaned), **{k: v for k, v in more.items() if v is not None}}


def _object(data: bytes) -> dict[str, Any]:
    """Return the JSON object in these bytes; {} if they are not a JSON object."""
    try:
        value = parse(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _choice(value: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the only choice of a response or chunk; None for an error or any other number of choices."""
    choices = value.get("choices")
    if value.get("error") or not isinstance(choices, list) or len(choices) != 1:
        return None
    first = choices[0]
    return first if isinstance(first, dict) and first.get("index", 0) == 0 else None


def _assembled(raw: bytes) -> dict[str, Any] | None:
    """Return the choice that the chunks of a stream make together; None if the stream broke off or failed."""
    texts: list[str] = []
    calls: dict[int, dict[str, str]] = {}
    reason = None
    for data in _events(raw):
        if data == b"[DONE]":
            made = [
                {"id": call.pop("id"), "type": "function", "function": call}
                for _, call in sorted(calls.items())
            ]
            return {"message": {"content": "".join(texts), "tool_calls": made}, "finish_reason": reason}
        chunk = _object(data)
        if chunk.get("choices") == []:  # some servers end with a chunk that has only the token usage
            continue
        choice = _choice(chunk)
        if choice is None:  # an error: vLLM reports it in the stream, and still ends the stream with [DONE]
            return None
        reason = choice.get("finish_reason") or reason
        delta = choice.get("delta")
        if isinstance(delta, dict):
            texts += [delta["content"]] if isinstance(delta.get("content"), str) else []
            _add_calls(calls, delta.get("tool_calls"))
    return None


def _add_calls(calls: dict[int, dict[str, str]], deltas: Any) -> None:
    """Append the pieces of tool calls in a chunk to the calls, which are collected by index."""
    for piece in deltas if isinstance(deltas, list) else []:
        function = piece.get("function") if isinstance(piece, dict) else None
        if isinstance(function, dict) and isinstance(index := piece.get("index", 0), int):
            call = calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
            for name, holder in (("id", piece), ("name", function), ("arguments", function)):
                call[name] += holder[name] if isinstance(holder.get(name), str) else ""


def _events(raw: bytes) -> Iterator[bytes]:
    """Yield the data of each complete server-sent event."""
    lines: list[bytes] = []
    for line in raw.replace(b"\r\n", b"\n").split(b"\n"):
        if line.startswith(b"data:"):
            lines.append(line[5:].removeprefix(b" "))
        elif not line and lines:
            yield b"\n".join(lines)
            lines = []
