"""Reader of the command `llm`: rows of its logs.db, and the output of `llm logs --json`.

Invariant: the responses of a conversation follow each other in time, each with the prompt before it. The
system prompt is a turn where it changes.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from corpus.aliases import Json
from corpus.formats.format import Format, Located, Part, Reading
from corpus.formats.parts import as_text, items_at, text_at
from corpus.formats.sessions import Message, gathered, numbered, session

NAME = "llm"


def recognises(value: Any) -> bool:
    """Return whether a value is a logged response."""
    return isinstance(value, dict) and all(
        name in value for name in ("prompt", "response", "model", "datetime_utc")
    )


def read(value: Any, line: int) -> Reading:
    """Return a single response as a conversation; see `join` for a whole file."""
    return tuple(join([(line, value)]))


def join(records: Iterable[Located]) -> Iterator[Part]:
    """Yield the conversation of each id."""
    rows = [(line, value) for line, value in numbered(records) if recognises(value)]
    rows.sort(key=lambda row: (text_at(row[1], "datetime_utc"), text_at(row[1], "id")))
    owned = (
        (text_at(value, "conversation_id") or text_at(value, "id") or str(line), (line, value))
        for line, value in rows
    )
    for key, its in gathered(owned).items():
        yield from session(_messages(its), NAME, key=key)


def _messages(rows: list[tuple[int, Json]]) -> Iterator[Message]:
    """Yield the messages of a conversation."""
    system = ""
    for line, row in rows:
        id, time = text_at(row, "id") or str(line), row.get("datetime_utc")
        told = _with_fragments(row, "system")
        if told and told != system:
            system = told
            yield Message(line=line, value={"role": "system", "content": told, "time": time}, id=f"{id}:s")
        for number, result in enumerate(items_at(row, "tool_results")):
            value = {"role": "tool", "content": as_text(text_at(result, "output"))}
            call_id = text_at(result, "tool_call_id")
            yield Message(
                line=line, value={**value, "tool_call_id": call_id, "time": time}, id=f"{id}:r{number}"
            )
        prompt = _with_fragments(row, "prompt")
        yield Message(line=line, value={"role": "user", "content": prompt, "time": time}, id=f"{id}:q")
        calls = [{**call, "id": call.get("tool_call_id")} for call in items_at(row, "tool_calls")
                 if isinstance(call, dict)]  # fmt: skip
        answer = {"role": "assistant", "content": row.get("response"), "tool_calls": calls, "time": time}
        yield Message(line=line, value=answer, id=f"{id}:a")


def _with_fragments(row: Json, name: str) -> str:
    """Return a prompt, or the fragments that were given in its place."""
    text = text_at(row, name)
    fragments = row.get(f"{name}_fragments")
    if text.strip() or not isinstance(fragments, list):
        return text
    return "\n".join(filter(None, (text_at(fragment, "content") for fragment in fragments)))


FORMAT = Format(
    name=NAME,
    title="`llm`: logs.db, and `llm logs --json`",
    seen="0.13 to 0.28",
    link="https://llm.datasette.io/en/stable/logging.html",
    recognises=recognises,
    read=read,
    join=join,
)
