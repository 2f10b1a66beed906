"""Reader of Claude Code: the session files in its projects folder, and the stream of `claude -p`.

Invariant: the turns of a session are the branch that is live at its end. A record's id is the key of its
turn, so a copy of a session is recognised by ids and never by words. The pieces of one answer, each in a
record of its own, are one turn. The result of a tool is logged as `type: user` and becomes a tool turn; the
words that a person typed in reply (a rejection, a free answer to a question) are a user's turn. Records
outside the conversation (meta, summaries, side chains, synthetic answers, what a hook wrote) give no turns.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from corpus.aliases import Json
from corpus.conversation import Conversation, Structure, Turn
from corpus.formats.format import Format, Located, Part, Reading
from corpus.formats.machine import spoken
from corpus.formats.messages import together, turns_of
from corpus.formats.parts import as_text, as_time, as_tools
from corpus.formats.tree import live
from corpus.lines import BadLine

NAME = "claude-code"

SYNTHETIC = "<synthetic>"
"""The model name of answers that the client wrote itself."""

_HIDDEN = ("isMeta", "isSidechain", "isCompactSummary", "isVisibleInTranscriptOnly", "isApiErrorMessage")
_SIGNS = ("sessionId", "leafUuid", "parentUuid", "isSnapshotUpdate")
_REJECTED = re.compile(
    r"\s*The user doesn't want to .*?(?:the user said|reason for the rejection):\s*(?P<words>.*?)"
    r"(?:\n\nNote: The user's next message|\Z)",
    re.DOTALL,
)
_ANSWERED = re.compile(r'"(?:[^"\\]|\\.)*"="((?:[^"\\]|\\.)*)"')


@dataclass(kw_only=True)
class _Record:
    """A record with its place in the tree of a session."""

    uuid: str
    parent: str | None
    prompt: bool = False
    """Whether a person typed it as the next prompt: a second one at the same place is a new branch."""
    root: bool = False
    """Whether it begins the conversation anew."""
    message: str = ""
    """The id of the answer that this record is a piece of; "" for other records."""
    turns: tuple[Turn, ...] = ()


@dataclass(kw_only=True)
class _Session:
    """The records of one session, as they arrive."""

    records: list[_Record] = field(default_factory=list)
    queued: list[Turn] = field(default_factory=list)
    """Messages that were sent while the agent worked, as the queue has them."""
    options: dict[str, set[str]] = field(default_factory=dict)
    """For each call of a question tool, the answers that it offered."""


def recognises(value: Any) -> bool:
    """Return whether a decoded line looks like a record of a Claude Code session."""
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        return False
    streamed = "session_id" in value and any(name in value for name in ("message", "subtype", "result"))
    return streamed or any(name in value for name in _SIGNS)


def read(value: Any, line: int) -> Reading:
    """Return the turns of a single record as a conversation; see `join` for a whole file."""
    return next(iter(join([(line, value)])), None)


def join(records: Iterable[Located]) -> Iterator[Part]:
    """Yield the faults of the records, then a conversation for each session in them."""
    sessions: dict[str, _Session] = {}
    for line, value in records:
        if not isinstance(value, dict) or not isinstance(value.get("type"), str):
            yield BadLine(line=line, reason='no "type"')
            continue
        fault = _add(sessions, value, line)
        if fault:
            yield BadLine(line=line, reason=fault)
    for key, session in sessions.items():
        turns = tuple(_turns_of_session(session))
        if turns:
            yield Conversation(source="", format=NAME, turns=turns, key=key)


def _add(sessions: dict[str, _Session], value: Json, line: int) -> str:
    """Add a record to its session; return the fault of a record that cannot be read, else ""."""
    key = value.get("sessionId", value.get("session_id"))
    speaks = _speaks(value) and not _hidden(value)
    if not isinstance(key, str) or not key:
        return 'no "sessionId"' if speaks else ""
    session = sessions.setdefault(key, _Session())
    turns: tuple[Turn, ...] | BadLine = ()
    if speaks:
        if not isinstance(value.get("message"), dict):
            return 'no object "message"'
        turns = _spoken_turns(session, value, line)
        if isinstance(turns, BadLine):
            return turns.reason
    elif value["type"] in ("queue-operation", "attachment"):
        turns = _queued(session, value, line)
    assert not isinstance(turns, BadLine)
    session.records.append(_record(session, value, turns))
    return ""


def _speaks(value: Json) -> bool:
    """Return whether a record of this type has a message of the conversation.

    Most records of type `system` are notices to the user. Claude Code writes neither the system prompt nor
    the definitions of the tools; a tool that adds them writes a message of role `system`, and `tools`.
    """
    message = value.get("message")
    prompt = value["type"] == "system" and isinstance(message, dict) and message.get("role") == "system"
    return prompt or value["type"] in ("user", "assistant")


def _hidden(value: Json) -> bool:
    """Return whether a record is no part of the conversation, or was not written by a person or the model."""
    origin, message = value.get("origin"), value.get("message")
    kind = origin.get("kind") if isinstance(origin, dict) else origin
    foreign = value["type"] == "user" and isinstance(kind, str) and kind not in ("human", "user")
    synthetic = isinstance(message, dict) and message.get("model") == SYNTHETIC
    return foreign or synthetic or bool(value.get("parent_tool_use_id")) or any(map(value.get, _HIDDEN))


def _record(session: _Session, value: Json, turns: tuple[Turn, ...]) -> _Record:
    """Return a record with its parent: the one it names, else the record before it."""
    before = session.records[-1].uuid if session.records else None
    own = value.get("uuid")
    uuid = own if isinstance(own, str) and own else f"\0{len(session.records)}"
    parent = value.get("parentUuid") or value.get("logicalParentUuid")
    prompt = value["type"] == "user" and any(turn.role == "user" for turn in turns) and len(turns) == 1
    message = value.get("message")
    return _Record(
        uuid=uuid,
        parent=parent if isinstance(parent, str) else before,
        prompt=prompt and not turns[0].key.endswith(":said"),
        root=prompt and "parentUuid" in value and parent is None,
        message=as_text(message.get("id"))
        if isinstance(message, dict) and value["type"] == "assistant"
        else "",
        turns=turns,
    )


def _spoken_turns(session: _Session, value: Json, line: int) -> tuple[Turn, ...] | BadLine:
    """Return the turns of a record of the user or the assistant."""
    message: Json = {**value["message"], "role": value["type"]}
    turns = turns_of([message], line)
    if isinstance(turns, BadLine):
        return turns
    keyed, moment, tools = list[Turn](), as_time(value.get("timestamp")), as_tools(value.get("tools"))
    results = [turn for turn in turns if turn.role == "tool"]
    spoke = any(turn.structure is None or turn.structure.content.strip() for turn in results)
    answer = as_text(message.get("id")) if value["type"] == "assistant" else ""
    for turn in turns:
        number = results.index(turn) if turn.role == "tool" else -1
        suffix = f":r{number}" if number > 0 or (number == 0 and not spoke) else ""
        suffix = ":1" if turn.role == "user" and spoke else suffix
        shape = turn.structure
        if answer and turn.role == "assistant":
            shape = replace(shape or Structure(content=turn.text), answer=answer)
        key = f"{_key(value, turn)}{suffix}"
        keyed.append(replace(turn, time=moment or turn.time, key=key, tools=tools, structure=shape))
    for part in message["content"] if isinstance(message.get("content"), list) else []:
        if not isinstance(part, dict):
            continue
        if part.get("type") == "tool_use" and part.get("name") == "AskUserQuestion":
            session.options[as_text(part.get("id"))] = set(_labels(part.get("input")))
        elif part.get("type") == "tool_result" and (words := _typed_at(session, part, value)):
            key = f"{_key(value, None)}:said"
            keyed.append(Turn(role="user", text=words, line=line, time=moment, key=key))
    return tuple(keyed)


def _typed_at(session: _Session, result: Json, value: Json) -> str:
    """Return what a person typed at a tool: why it was rejected, or an answer of one's own; else ""."""
    text = as_text(result.get("content"))
    if rejected := _REJECTED.match(text):
        return spoken(rejected["words"].strip())
    offered = session.options.get(as_text(result.get("tool_use_id")))
    if offered is None:
        return ""
    outcome = value.get("toolUseResult")
    answers = outcome.get("answers") if isinstance(outcome, dict) else None
    given = list(map(as_text, answers.values())) if isinstance(answers, dict) else _ANSWERED.findall(text)
    return "\n".join(answer for answer in given if answer.strip() and answer not in offered)


def _labels(question: Any) -> Iterator[str]:
    """Yield the labels of the options in the input of a question tool."""
    if isinstance(question, dict):
        for name, inner in question.items():
            if name == "label" and isinstance(inner, str):
                yield inner
            else:
                yield from _labels(inner)
    elif isinstance(question, list):
        for inner in question:
            yield from _labels(inner)


def _queued(session: _Session, value: Json, line: int) -> tuple[Turn, ...]:
    """Return the turn of a message that was sent while the agent worked, once it has reached the agent."""
    moment = as_time(value.get("timestamp"))
    if value["type"] == "queue-operation":
        text = spoken(as_text(value.get("content"))) if value.get("operation") == "enqueue" else ""
        if text.strip():
            key = f"queued:{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:16]}"
            session.queued.append(Turn(role="user", text=text, line=line, time=moment, key=key))
        return ()
    attachment = value.get("attachment")
    if not isinstance(attachment, dict) or attachment.get("type") != "queued_command":
        return ()
    if attachment.get("commandMode") not in (None, "prompt"):
        return ()
    text = spoken(as_text(attachment.get("prompt")))
    if not text.strip():
        return ()
    return (Turn(role="user", text=text, line=line, time=moment, key=f"{_key(value, None)}:said"),)


def _turns_of_session(session: _Session) -> list[Turn]:
    """Return the turns of the branch that is live, with the pieces of an answer joined."""
    turns: list[Turn] = []
    answers: dict[str, int] = {}
    seen: set[str] = set()
    chosen = live([(r.uuid, r.parent, r.prompt, r.root) for r in session.records])
    for record, kept in zip(session.records, chosen, strict=True):
        for turn in record.turns if kept else ():
            if turn.key in seen:  # a session that was resumed may repeat its records
                continue
            seen.add(turn.key)
            at = answers.get(record.message) if record.message and turn.role == "assistant" else None
            if at is None:
                answers[record.message] = len(turns)
                turns.append(turn)
            elif turn.text not in turns[at].text.split("\n"):
                turns[at] = together(turns[at], turn)
    said = {turn.text.strip() for record in session.records for turn in record.turns if turn.role == "user"}
    for queued in session.queued:
        if queued.text.strip() not in said:  # it reached the agent without a record of its own
            said.add(queued.text.strip())
            after = next((n for n, turn in enumerate(turns) if turn.line > queued.line), len(turns))
            turns.insert(after, queued)
    return turns


def _key(value: Json, turn: Turn | None) -> str:
    """Return the id of a record; for one without an id, a digest that is the same whenever it is read."""
    uuid = value.get("uuid")
    if isinstance(uuid, str) and uuid:
        return uuid
    told = (turn.role, turn.text) if turn else ("", str(value.get("message", value.get("attachment"))))
    parts = (*told, str(value.get("timestamp")))
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:16]


FORMAT = Format(
    name=NAME,
    title="Claude Code: the files in ~/.claude/projects, and `claude -p --output-format stream-json`",
    seen="1.0 to 2.1",
    link="https://docs.anthropic.com/en/docs/claude-code",
    recognises=recognises,
    read=read,
    join=join,
)
