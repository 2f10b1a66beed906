"""Reader of Claude Code sessions: one record on each line; the turns of a session arrive one by one.

Invariant: a record with an utterance gives a Conversation. Its key is the session's id, and the keys of its
turns are the record's id. The result of a tool is logged as `type: user` and becomes a tool turn. Records
outside the conversation (meta, summaries, side chains, synthetic answers, thinking) give None. Every record
is read by itself, so the turns do not depend on where the file was cut while it grew, and the parts of one
answer are separate turns. This module ignores the tree of retries behind parentUuid: turns are in the order
of the file.
"""

import hashlib
import re
from typing import Any

from corpus.aliases import Json
from corpus.conversation import Conversation, Turn
from corpus.formats.parts import as_text, as_time, tool_call
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
    if value["type"] not in ("user", "assistant") or any(value.get(name) for name in _HIDDEN):
        return None
    session, message = value.get("sessionId"), value.get("message")
    if not isinstance(session, str) or not session:
        return BadLine(line=line, reason='no "sessionId"')
    if not isinstance(message, dict):
        return BadLine(line=line, reason='no object "message"')
    if message.get("model") == SYNTHETIC:
        return None
    utterances = _assistant(message) if value["type"] == "assistant" else _user(message)
    if utterances is None:
        return BadLine(line=line, reason="content is neither text nor a list of parts")
    turns = _turns(utterances, value, line)
    return Conversation(source="", format=NAME, turns=turns, key=session) if turns else None


def _turns(utterances: list[tuple[str, str]], record: Json, line: int) -> tuple[Turn, ...]:
    """Return the turns of a record; their keys stay the same when the record is read again.

    Args:
        utterances: (role, text) of each turn; empty texts are left out.
        record: The whole record, which has the time and the id.
        line: The line's number from 1.
    """
    moment, uuid = as_time(record.get("timestamp")), record.get("uuid")
    turns = []
    for number, (role, text) in enumerate(item for item in utterances if item[1].strip()):
        key = uuid if isinstance(uuid, str) and uuid else _digest(role, text, str(record.get("timestamp")))
        key = f"{key}:{number}" if number else key
        turns.append(Turn(role=role, text=text, line=line, time=moment, key=key))
    return tuple(turns)


def _user(message: Json) -> list[tuple[str, str]] | None:
    """Return (role, text) of the user's side: the results of tools, then the person's words.

    Returns:
        None if the content cannot be read.
    """
    parts = _parts(message)
    results = [as_text(part.get("content")) for part in parts if _kind(part) == "tool_result"]
    spoken = as_text([part for part in parts if part is not None and _kind(part) != "tool_result"])
    if spoken is None or None in results:
        return None
    if _CLIENT.match(spoken) or spoken.startswith(_INTERRUPTED):
        spoken = ""
    return [("tool", "\n".join(filter(None, results))), ("user", _REMINDER.sub("", spoken).strip())]


def _assistant(message: Json) -> list[tuple[str, str]] | None:
    """Return (role, text) of the model's answer, with its tool calls and without its thinking.

    Returns:
        None if the content cannot be read.
    """
    texts: list[str | None] = []
    for part in _parts(message):
        if _kind(part) in ("thinking", "redacted_thinking"):
            continue
        called = _kind(part) in ("tool_use", "server_tool_use")
        texts.append(tool_call(part.get("name"), part.get("input")) if called else as_text(part))
    return None if None in texts else [("assistant", "\n".join(filter(None, texts)))]


def _parts(message: Json) -> list[Any]:
    """Return the content of a message as a list of parts; a text is one part."""
    content = message.get("content")
    return content if isinstance(content, list) else [content]


def _kind(part: Any) -> Any:
    """Return the type of a part; None for a plain text."""
    return part.get("type") if isinstance(part, dict) else None


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
