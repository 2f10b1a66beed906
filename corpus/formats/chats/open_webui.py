"""Reader of Open WebUI: exported chats and feedbacks, and the tables of its database (webui.db).

Invariant: the turns are the branch that `currentId` names. If a person changed the text of an answer, this
branch has the changed text. The model's own text, with the changed text as its edit, ends a second
conversation, which shares the turns before it. An answer that was generated again after a bad rating also
ends a conversation of its own, with the answer that stayed as its edit.
"""

from dataclasses import replace
from typing import Any

from corpus.aliases import Json
from corpus.conversation import Conversation, Turn
from corpus.formats.feedback import SIGNED, feedback_of
from corpus.formats.format import Format, Part, Reading
from corpus.formats.messages import turns_of
from corpus.formats.parts import at, parsed, text_at
from corpus.formats.tree import last_leaf, path_to
from corpus.lines import BadLine

NAME = "open-webui"


def recognises(value: Any) -> bool:
    """Return whether a value is a chat of Open WebUI, with its history as a tree of messages."""
    return isinstance(value, dict) and isinstance(at(_chat(value), "history.messages"), dict)


def _rated_message(value: Json) -> tuple[str, Any]:
    """Return the id of the message that a feedback is about, and its rating; "" and None for a chat."""
    if not isinstance(at(value, "snapshot.chat"), dict):
        return "", None
    return text_at(value, "meta.message_id"), at(value, "data.rating")


def read(value: Any, line: int) -> Reading:
    """Return the live branch of a chat, then each answer that a person changed or had generated again.

    Args:
        value: The chat, or the row that has it.
        line: The number of its line, or of its place in the array, from 1.
    """
    if not recognises(value):
        return BadLine(line=line, reason='no "history" with messages')
    nodes = dict(at(_chat(value), "history.messages"))
    about, rating = _rated_message(value)
    if isinstance(nodes.get(about), dict):
        nodes[about] = {**nodes[about], "annotation": {"rating": rating}}
    leaf = (
        (about if about in nodes else "")
        or text_at(_chat(value), "history.currentId")
        or last_leaf(nodes, "parentId")
    )
    path = path_to(leaf, nodes, "parentId") or path_to(last_leaf(nodes, "parentId"), nodes, "parentId")
    turns: list[Turn] = []
    others: list[Part] = []
    source = text_at(value, "user_id")
    for message in path:
        own = _turns(message, line)
        if isinstance(own, BadLine):
            return own
        for original in _attempts(message, nodes, own, line):
            aside = (*turns, original)
            others.append(Conversation(source=source, format=NAME, turns=aside, copied=len(turns)))
        turns += own
    if not turns:
        return BadLine(line=line, reason="no message has any text")
    return (Conversation(source=source, format=NAME, turns=tuple(turns)), *others)


def _chat(value: Json) -> Any:
    """Return the chat in a row of an export or of the database, or in a feedback; else the value itself."""
    places = ("snapshot.chat.chat", "snapshot.chat", "chat")
    return next((parsed(at(value, place)) for place in places if at(value, f"{place}.history")), value)


def _turns(message: Json, line: int) -> tuple[Turn, ...] | BadLine:
    """Return a message as turns, with the rating of its annotation and without the change of its text."""
    plain = {key: part for key, part in message.items() if key not in ("originalContent", "annotation")}
    turns = turns_of([plain], line)
    if isinstance(turns, BadLine) or not isinstance(message.get("annotation"), dict):
        return turns
    given = feedback_of({"rating": message["annotation"].get("rating")})
    value = given.score.value if given.score else None
    rating = SIGNED.rating(value) if isinstance(value, float) else given.rating
    return tuple(replace(turn, rating=rating) if turn.role == "assistant" else turn for turn in turns)


def _attempts(message: Json, nodes: Json, turns: tuple[Turn, ...], line: int) -> list[Turn]:
    """Return the model's other answers in place of this message, each with the better text as its edit."""
    answers = [turn for turn in turns if turn.role == "assistant"]
    if not answers:
        return []
    kept, found = answers[-1], list[Turn]()
    if isinstance(message.get("originalContent"), str):
        found += _turns_or_none({**message, "content": message["originalContent"], "annotation": None}, line)
    above = nodes.get(text_at(message, "parentId"))
    children = above.get("childrenIds") if isinstance(above, dict) else None
    for key in children if isinstance(children, list) else []:
        other = nodes.get(str(key))
        if isinstance(other, dict) and other is not message and other.get("role") == "assistant":
            found += [turn for turn in _turns_or_none(other, line) if (turn.rating or 0) < 0]
    better = kept.text if (kept.rating or 0) >= 0 else None
    return [
        replace(turn, edited=better) for turn in found
        if turn.role == "assistant" and turn.text.strip() != kept.text.strip()
    ]  # fmt: skip


def _turns_or_none(message: Json, line: int) -> tuple[Turn, ...]:
    turns = _turns(message, line)
    return () if isinstance(turns, BadLine) else turns


FORMAT = Format(
    name=NAME,
    title="Open WebUI: exported chats and feedbacks, and its database webui.db",
    seen="exports and databases of 0.5 and 0.6",
    link="https://docs.openwebui.com",
    recognises=recognises,
    read=read,
)
