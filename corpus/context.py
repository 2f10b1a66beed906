"""The messages that a model saw before an answer, made of a conversation's turns.

Invariant: pure. The messages are in the form that chat templates take, with tool calls and results as
structure. They are cut at a user's turn only, and the system prompt at their beginning always stays. This
module knows no tokenizer: it counts characters, and `agents.model.context` counts tokens.
"""

import json
from collections.abc import Iterable, Sequence

from corpus.aliases import Json, Message
from corpus.conversation import ToolCall, Turn


def last_request(messages: Sequence[Message]) -> str:
    """Return the text of the user's last message, which is the request to answer; "" if there is none."""
    return next((str(m["content"]) for m in reversed(messages) if m["role"] == "user"), "")


def message_of(turn: Turn) -> Message:
    """Return a turn as the message that the model saw or wrote."""
    structure = turn.structure
    if structure is None:
        return {"role": turn.role, "content": turn.text}
    more = {
        "tool_calls": [_call(call) for call in structure.calls],
        "tool_call_id": structure.call_id,
        "name": structure.name,
    }
    return {
        "role": turn.role,
        "content": structure.content,
        **{key: value for key, value in more.items() if value},
    }


def as_messages(turns: Iterable[Turn]) -> list[Message]:
    """Return the messages of these turns; the parts of one answer become one message.

    A log may write the result of a tool between two parts of an answer. The model saw it after the answer.
    """
    messages: list[Message] = []
    open_answer, place = "", 0
    for turn in turns:
        message, answer = message_of(turn), _answer_of(turn)
        if answer and answer == open_answer:
            messages[place] = _joined(messages[place], message)
            continue
        messages.append(message)
        if turn.role != "tool":
            open_answer, place = answer, len(messages) - 1
    return messages


def seen_before(turns: Sequence[Turn], position: int) -> list[Message]:
    """Return the messages that the model saw when it began the answer at this position."""
    return as_messages(turns[: beginning_of(turns, position)])


def beginning_of(turns: Sequence[Turn], position: int) -> int:
    """Return the position of the first part of the answer of which the turn at `position` is a part."""
    begin, answer = position, _answer_of(turns[position])
    for place in range(position - 1, -1, -1) if answer else ():
        if _answer_of(turns[place]) == answer:
            begin = place
        elif turns[place].role != "tool":
            break
    return begin


def opening(messages: Sequence[Message]) -> int:
    """Return the number of system messages at the beginning, which a cut never removes."""
    return next((place for place, m in enumerate(messages) if m["role"] != "system"), len(messages))


def cuts(messages: Sequence[Message]) -> list[int]:
    """Return the places at which the messages may be cut: of the first one, and of each user's message.

    The system prompt is not counted as the first message. No places are returned for no other message.
    """
    first = opening(messages)
    later = [place for place in range(first + 1, len(messages)) if messages[place]["role"] == "user"]
    return [first, *later] if first < len(messages) else []


def cut_at(messages: Sequence[Message], place: int) -> list[Message]:
    """Return the system prompt and the messages from this place on."""
    return [*messages[: opening(messages)], *messages[place:]]


def within(messages: Sequence[Message], characters: int) -> int | None:
    """Return the first place at which a cut leaves at most so many characters; None if no cut does.

    The characters are those of the messages' JSON.
    """
    sizes = [len(json.dumps(message, ensure_ascii=False)) for message in messages]
    kept = sum(sizes[: opening(messages)])
    return next((place for place in cuts(messages) if kept + sum(sizes[place:]) <= characters), None)


def _answer_of(turn: Turn) -> str:
    return turn.structure.answer if turn.structure and turn.role == "assistant" else ""


def _call(call: ToolCall) -> Json:
    """Return a tool call in OpenAI's form."""
    named = {"id": call.id} if call.id else {}
    return {**named, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _joined(first: Message, more: Message) -> Message:
    """Return two parts of an answer as one message."""
    content = "\n".join(filter(None, (first["content"], more["content"])))
    calls = [*first.get("tool_calls", ()), *more.get("tool_calls", ())]
    return {**first, "content": content, **({"tool_calls": calls} if calls else {})}
