"""Reader of Codex: the rollout files of its sessions, old and new, and the stream of `codex exec --json`.

Invariant: the turns of a session are the items that the model got and wrote, without those that the user took
back. What the client wrote in the user's name, events, and items of the model's reasoning give no turns. The
key of a turn is made of the session in which it was first said, its place and its words, because items have
no ids: so the beginning of a forked session is recognised.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from corpus.aliases import Json
from corpus.formats.exchange import item_messages
from corpus.formats.format import Format, Located, Part, Reading
from corpus.formats.machine import spoken
from corpus.formats.parts import as_text, at, first_text, keys_of, text_at
from corpus.formats.sessions import Message, numbered, session
from corpus.lines import BadLine

NAME = "codex"

_RECORDS = ("session_meta", "response_item", "event_msg", "turn_context", "compacted")
_STREAM = ("thread.started", "turn.started", "turn.completed", "turn.failed", "item.started", "item.updated")
_ITEMS = frozenset(
    "message function_call function_call_output custom_tool_call custom_tool_call_output local_shell_call "
    "local_shell_call_output".split()
)
_SILENT = frozenset(
    "reasoning web_search_call ghost_snapshot compaction compaction_summary context_compaction other "
    "image_generation_call tool_search_call tool_search_output item_reference".split()
)
_OLD = (frozenset({"id", "timestamp"}), frozenset({"record_type"}))


@dataclass(kw_only=True)
class _Session:
    """The items of one session, as they arrive."""

    key: str
    root: str
    """Id of the session from which this one was forked; its own id if it was not."""
    messages: list[Message] = field(default_factory=list)
    faults: list[BadLine] = field(default_factory=list)


def recognises(value: Any) -> bool:
    """Return whether a decoded line looks like a record of a Codex session or of its stream."""
    if not isinstance(value, dict):
        return False
    kind = value.get("type")
    if kind in _RECORDS:
        return "payload" in value
    if kind in (*_STREAM, "item.completed"):
        return "thread_id" in value or "item" in value or kind.startswith("turn.")
    if isinstance(at(value, "msg.type"), str) and "id" in value:
        return True
    if isinstance(value.get("items"), list) and isinstance(value.get("session"), dict):
        return True
    if kind is None:
        return "record_type" in value or ("instructions" in value and set(value) >= {"id", "timestamp"})
    return kind == "message" and str(at(value, "content.0.type")) in ("input_text", "output_text")


def read(value: Any, line: int) -> Reading:
    """Return the turns of a single record as a conversation; see `join` for a whole file."""
    return next(iter(join([(line, value)])), None)


def join(records: Iterable[Located]) -> Iterator[Part]:
    """Yield the faults of the records, then a conversation for each session in them."""
    sessions = [_Session(key="", root="")]
    for line, value in numbered(records):
        _add(sessions, value, line)
    for each in sessions:
        yield from each.faults
        yield from session(_keyed(each), NAME, key=each.key)


def _keyed(each: _Session) -> Iterator[Message]:
    """Yield the messages of a session with their keys."""
    for place, message in enumerate(each.messages):
        told = (each.root, str(place), as_text(message.value.get("role")), as_text(message.value["content"]))
        digest = hashlib.sha256("\0".join(told).encode("utf-8", "replace")).hexdigest()
        yield Message(line=message.line, value=message.value, id=digest[:16])


def _add(sessions: list[_Session], value: Json, line: int) -> None:
    """Add a record to the session that it belongs to."""
    kind, payload = value.get("type"), value.get("payload")
    if kind in ("session_meta", "thread.started") or (kind is None and "timestamp" in value):
        _begin(sessions, value)
    elif isinstance(value.get("items"), list):  # the first versions wrote one object a session
        _begin(sessions, value)
        for item in value["items"]:
            if isinstance(item, dict):
                _item(sessions[-1], item, line, None)
    elif kind == "response_item" and isinstance(payload, dict):
        _item(sessions[-1], payload, line, value.get("timestamp"))
    elif kind == "event_msg" and at(payload, "type") == "thread_rolled_back":
        _take_back(sessions[-1], at(payload, "num_turns"))
    elif kind == "item.completed" and isinstance(value.get("item"), dict):
        _streamed(sessions[-1], value["item"], line)
    elif isinstance(value.get("msg"), dict):
        _event(sessions[-1], value["msg"], line)
    elif isinstance(value.get("prompt"), str):
        _say(sessions[-1], line, {"role": "user", "content": value["prompt"]})
    elif isinstance(kind, str) and kind in _ITEMS:
        _item(sessions[-1], value, line, value.get("timestamp"))


def _begin(sessions: list[_Session], value: Json) -> None:
    """Begin a session, unless the record repeats how the last one began or names where it was forked."""
    places = ("payload.id", "thread_id", "session.id", "id")
    key = first_text(value, places)
    last = sessions[-1]
    if last.key and not last.messages:  # a fork repeats the records of the session before it
        last.root = key
    elif last.key != key:
        sessions.append(_Session(key=key, root=text_at(value, "payload.forked_from_id") or key))


def _item(to: _Session, item: Json, line: int, time: Any) -> None:
    """Add an item that the model got or wrote."""
    kind = text_at(item, "type") or ("message" if "role" in item else "")
    if kind not in _ITEMS:
        if kind not in _SILENT:
            known = kind if kind.isidentifier() and len(kind) < 40 else keys_of(item)
            to.faults.append(BadLine(line=line, reason=f"an item of a type that is not known: {known}"))
        return
    if kind == "message" and item.get("role") in ("developer", "system"):
        return
    for message in item_messages({**item, "type": kind.replace("local_shell_call_", "function_call_")}):
        _say(to, line, {**message, "timestamp": time})


def _say(to: _Session, line: int, message: Json) -> None:
    to.messages.append(Message(line=line, value={"content": "", **message}))


def _take_back(to: _Session, count: Any) -> None:
    """Remove the last prompts of a session, with all that follows them."""
    for _ in range(count if isinstance(count, int) else 0):
        prompts = [place for place, message in enumerate(to.messages) if _typed(message)]
        del to.messages[prompts[-1] if prompts else 0 :]


def _typed(message: Message) -> bool:
    """Return whether a person typed a message."""
    said = message.value.get("role") == "user"
    return said and bool(spoken(as_text(message.value.get("content"))).strip())


def _streamed(to: _Session, item: Json, line: int) -> None:
    """Add an item of the stream, which has the agent's messages and commands but not the prompt."""
    kind = item.get("type", item.get("item_type"))
    if kind in ("agent_message", "assistant_message"):
        _say(to, line, {"role": "assistant", "content": as_text(item.get("text"))})
    elif kind == "user_message":
        _say(to, line, {"role": "user", "content": as_text(item.get("text"))})
    elif kind == "command_execution":
        arguments = {"command": item.get("command")}
        call = {"type": "function_call", "name": "shell", "arguments": arguments, "call_id": item.get("id")}
        _say(to, line, {"role": "assistant", "content": [call]})
        output = as_text(item.get("aggregated_output"))
        _say(to, line, {"role": "tool", "content": output, "tool_call_id": item.get("id")})


def _event(to: _Session, event: Json, line: int) -> None:
    """Add an event of the stream of the first versions."""
    roles = {"agent_message": "assistant", "user_message": "user"}
    if event.get("type") in roles:
        _say(to, line, {"role": roles[event["type"]], "content": as_text(event.get("message"))})


FORMAT = Format(
    name=NAME,
    title="Codex: the files in ~/.codex/sessions, and `codex exec --json`",
    seen="rollouts of 2025 and 2026, with and without an envelope; both forms of the stream",
    link="https://github.com/openai/codex",
    recognises=recognises,
    read=read,
    join=join,
)
