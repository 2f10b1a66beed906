"""Reader of OpenCode: an exported session, and the tables of its database.

Invariant: parts that OpenCode wrote in the user's name, or that it keeps from the model, give no turns. Nor
does a session that another session started, because an agent speaks in it for the user. Messages that the
user took back are left out.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from corpus.aliases import Json
from corpus.formats.format import Format, Located, Part, Reading
from corpus.formats.parts import at, first, first_text, items_at, parsed, text_at
from corpus.formats.sessions import Message, gathered, numbered, session

NAME = "opencode"

_TABLES = ("session", "message", "part")


def recognises(value: Any) -> bool:
    """Return whether a value is an exported session, or a row or a file of its storage."""
    if not isinstance(value, dict):
        return False
    if isinstance(value.get("messages"), list):
        return isinstance(at(value, "info.id"), str) and (
            not value["messages"] or isinstance(at(value, "messages.0.info"), dict)
        )
    return _kind(value) in _TABLES


def _kind(value: Json) -> str:
    """Return whether a record is a session, a message or a part; "" for another."""
    if value.get("table") in _TABLES and ("time_created" in value or "data" in value):
        return str(value["table"])
    if isinstance(value.get("messageID"), str) and isinstance(value.get("type"), str):
        return "part"
    if isinstance(value.get("sessionID"), str) and "role" in value and isinstance(value.get("time"), dict):
        return "message"
    return "session" if "projectID" in value and "directory" in value else ""


def read(value: Any, line: int) -> Reading:
    """Return the conversation of an exported session; see `join` for rows."""
    return tuple(join([(line, value)]))


def join(records: Iterable[Located]) -> Iterator[Part]:
    """Yield the conversation of each session in the records."""
    sessions: dict[str, Json] = {}
    messages: dict[str, tuple[int, str, Json]] = {}
    parts: dict[str, list[tuple[str, Json]]] = {}
    for line, value in numbered(records):
        for kind, row in _rows(value):
            key = text_at(row, "id")
            if kind == "session":
                sessions[key] = row
            elif kind == "message":
                messages[key] = (line, first_text(row, ("sessionID", "session_id")), row)
            else:
                parts.setdefault(first_text(row, ("messageID", "message_id")), []).append((key, row))
    spoken = (
        (owner, Message(line=line, value=_message(row, parts.get(key, [])), id=key))
        for key, (line, owner, row) in sorted(messages.items(), key=lambda each: _moment(each[1][2], each[0]))
    )
    for owner, its in gathered(spoken).items():
        info = sessions.get(owner, {})
        if not first_text(info, ("parentID", "parent_id")):
            yield from session(_kept(its, info), NAME, key=owner)


def _rows(value: Json) -> Iterator[tuple[str, Json]]:
    """Yield the sessions, messages and parts that a record holds."""
    if isinstance(value.get("messages"), list):
        yield "session", value["info"] if isinstance(value.get("info"), dict) else {}
        for message in value["messages"]:
            info = at(message, "info")
            if isinstance(info, dict):
                yield "message", {"sessionID": at(value, "info.id"), **info}
                for part in items_at(message, "parts"):
                    if isinstance(part, dict):
                        yield "part", {"messageID": info.get("id"), **part}
    elif kind := _kind(value):
        data = parsed(value.get("data"))
        yield kind, {**data, **value} if isinstance(data, dict) else value


def _moment(row: Json, key: str) -> tuple[float, str]:
    """Return what the messages are sorted by: the time, then the id, which grows with the time."""
    created = first(row, ("time.created", "time_created"))
    return (float(created) if isinstance(created, int | float) else 0.0, key)


def _kept(messages: list[Message], info: Json) -> list[Message]:
    """Return the messages before the one from which the user took the session back."""
    revert = first(parsed(info.get("revert")), ("messageID",))
    places = [place for place, message in enumerate(messages) if message.id == revert]
    return messages[: places[0]] if places else messages


def _message(row: Json, parts: list[tuple[str, Json]]) -> Json:
    """Return a message with its parts, in order, as a chat message."""
    content: list[Any] = []
    for _, part in sorted(parts, key=lambda each: each[0]):
        kind = part.get("type")
        if (
            part.get("synthetic")
            or part.get("ignored")
            or kind in ("compaction", "subtask", "agent", "retry")
        ):
            continue
        if kind == "tool":
            called = {"type": "tool_use", "id": part.get("callID"), "name": part.get("tool")}
            state = {"input": at(part, "state.input"), "output": at(part, "state.output")}
            content.append({**called, **state})
        else:
            content.append(part)
    role = row.get("role")
    summary = row.get("summary") is True or row.get("mode") == "compaction"
    time = first(row, ("time.created", "time_created"))
    return {"role": role, "content": [] if summary else content, "time": time}


FORMAT = Format(
    name=NAME,
    title="OpenCode: `opencode export`, and its database opencode.db",
    seen="exports of 1.0 to 1.2, the database of 1.2",
    link="https://opencode.ai/docs/cli/",
    recognises=recognises,
    read=read,
    join=join,
)
