"""Reader of Claude Code sessions: one record on each line; the turns of a session arrive one by one.

Invariant: a record with an utterance gives a Conversation. Its key is the session's id, and the keys of its
turns are the record's id. The result of a tool is logged as `type: user` and becomes a tool turn. Records
outside the conversation (meta, summaries, side chains, synthetic answers, thinking) give None. Every record
is read by itself, so the turns do not depend on where the file was cut while it grew, and the parts of one
answer are separate turns; the structure of each names the answer. Claude Code itself writes neither the
system prompt nor the definitions of the tools. A tool that adds them writes a record of type `system` with a
`message` of role `system`, and `tools`. This module ignores the tree of retries behind parentUuid: turns are
in the order of the file.
"""

import hashlib
import re
from dataclasses import dataclass, replace
from typing import Any

from corpus.aliases import Json
from corpus.conversation import Conversation, Structure, ToolCall, Turn
from corpus.formats.parts import NO_OUTPUT, as_call, as_text, as_time, as_tools, tool_call
from corpus.lines import BadLine

NAME = "claude-code"

SYNTHETIC = "<synthetic>"
"""The model name of answers that the client wrote itself."""

_HIDDEN = ("isMeta", "isSidechain", "isCompactSummary", "isVisibleInTranscriptOnly", "isApiErrorMessage")
_CLIENT = re.compile(r"\s*<(?:command-|local-command-|bash-|user-memory-input|task-notification)")
_REMINDER = re.compile(r"<system-reminder>.*?</system-reminder>", re.DOTALL)
_INTERRUPTED = "[Request interrupted by user"


def recognises(value: Any) -> bool:
    """Return whether a decoded line looks like a record of a Claude Code session."""
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        return False
    return any(name in value for name in ("sessionId", "leafUuid", "parentUuid", "isSnapshotUpdate"))


def read(value: Any, line: int) -> Conversation | BadLine | None:
    """Return the turns of one record as a part of its conversation.

    Args:
        value: The decoded line.
        line: The line's number from 1.

    Returns:
        None for a record outside the conversation; a BadLine with the reason for one that cannot be read.
    """
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        return BadLine(line=line, reason='no "type"')
    session, message = value.get("sessionId"), value.get("message")
    if any(value.get(name) for name in _HIDDEN) or not _spoken(value["type"], message):
        return None
    if not isinstance(session, str) or not session:
        return BadLine(line=line, reason='no "sessionId"')
    if not isinstance(message, dict):
        return BadLine(line=line, reason='no object "message"')
    if message.get("model") == SYNTHETIC:
        return None
    utterances = _READ[value["type"]](message)
    if utterances is None:
        return BadLine(line=line, reason="content is neither text nor a list of parts")
    turns = _turns(utterances, value, line)
    return Conversation(source="", format=NAME, turns=turns, key=session) if turns else None


@dataclass(frozen=True, kw_only=True)
class _Utterance:
    """One turn of a record, before it gets its key."""

    role: str
    text: str
    structure: Structure | None = None
    suffix: str = ""
    """The end of the turn's key, which tells it from the other turns of the record."""


def _spoken(kind: str, message: Any) -> bool:
    """Return whether a record of this type has a message of the conversation.

    Most records of type `system` are notices to the user, without a message.
    """
    if kind == "system":
        return isinstance(message, dict) and message.get("role") == "system"
    return kind in ("user", "assistant")


def _turns(utterances: list[_Utterance], record: Json, line: int) -> tuple[Turn, ...]:
    """Return the turns of a record; their keys stay the same when the record is read again.

    Args:
        utterances: The turns; those without a text are left out.
        record: The whole record, which has the time and the id.
        line: The line's number from 1.
    """
    moment, uuid = as_time(record.get("timestamp")), record.get("uuid")
    tools, turns = as_tools(record.get("tools")), []
    for spoken in utterances:
        if not spoken.text.strip():
            continue
        key = uuid if isinstance(uuid, str) and uuid else ""
        key = key or _digest(spoken.role, spoken.text, str(record.get("timestamp")))
        turn = Turn(role=spoken.role, text=spoken.text, line=line, time=moment, key=f"{key}{spoken.suffix}")
        turns.append(replace(turn, structure=spoken.structure, tools=tools))
    return tuple(turns)


def _system(message: Json) -> list[_Utterance] | None:
    """Return the system prompt; None if the content cannot be read."""
    text = as_text(message.get("content"))
    return None if text is None else [_Utterance(role="system", text=text)]


def _user(message: Json) -> list[_Utterance] | None:
    """Return the user's side: the results of tools, then the person's words.

    Reminders that the client adds to the words are in the structure only: the model saw them.

    Returns:
        None if the content cannot be read.
    """
    parts = _parts(message)
    results = [part for part in parts if _kind(part) == "tool_result"]
    outputs = [as_text(part.get("content")) for part in results]
    spoken = as_text([part for part in parts if part is not None and _kind(part) != "tool_result"])
    if spoken is None or None in outputs:
        return None
    if _CLIENT.match(spoken) or spoken.startswith(_INTERRUPTED):
        spoken = ""
    texts, some = [output or "" for output in outputs], any(output and output.strip() for output in outputs)
    told = [
        _result(part, text, "" if some and not n else f":r{n}")
        for n, (part, text) in enumerate(zip(results, texts, strict=True))
    ]
    words = _REMINDER.sub("", spoken).strip()
    whole = None if words == spoken else Structure(content=spoken)
    return [*told, _Utterance(role="user", text=words, structure=whole, suffix=":1" if some else "")]


def _result(part: Json, text: str, suffix: str) -> _Utterance:
    """Return the result of one tool.

    Args:
        part: The part of the message that has the result.
        text: The text of the result.
        suffix: The end of the turn's key.
    """
    call_id = part.get("tool_use_id")
    structure = Structure(content=text, call_id=call_id if isinstance(call_id, str) else "")
    return _Utterance(
        role="tool", text=text if text.strip() else NO_OUTPUT, structure=structure, suffix=suffix
    )


def _assistant(message: Json) -> list[_Utterance] | None:
    """Return the model's answer, with its tool calls and without its thinking.

    Returns:
        None if the content cannot be read.
    """
    texts, words, calls = list[str | None](), list[str | None](), list[ToolCall]()
    for part in _parts(message):
        if _kind(part) in ("thinking", "redacted_thinking"):
            continue
        if _kind(part) == "tool_use":
            calls.append(as_call(part.get("name"), part.get("input"), part.get("id")))
            texts.append(tool_call(part.get("name"), part.get("input")))
            continue
        called = _kind(part) == "server_tool_use"
        words.append(tool_call(part.get("name"), part.get("input")) if called else as_text(part))
        texts.append(words[-1])
    if None in texts:
        return None
    answer = message.get("id")
    structure = Structure(
        content="\n".join(filter(None, words)),
        calls=tuple(calls),
        answer=answer if isinstance(answer, str) else "",
    )
    text = "\n".join(filter(None, texts))
    return [
        _Utterance(
            role="assistant", text=text, structure=None if structure == Structure(content=text) else structure
        )
    ]


_READ = {"system": _system, "user": _user, "assistant": _assistant}
"""The function that reads the message of a record, by the record's type."""


def _parts(message: Json) -> list[Any]:
    """Return the content of a message as a list of parts; a text is one part."""
    content = message.get("content")
    return content if isinstance(content, list) else [content]


def _kind(part: Any) -> Any:
    """Return the type of a part; None for a plain text."""
    return part.get("type") if isinstance(part, dict) else None


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
