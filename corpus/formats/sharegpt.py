"""Reader of ShareGPT logs.

Each line is `{"conversations": [{"from": "human", "value": "..."}]}`, or the file is one array of such
objects. Invariant: one object is one whole conversation. An object that names no user gives a conversation
without a source.
"""

from typing import Any

from corpus.conversation import Conversation
from corpus.formats.openai import turns_of, with_feedback
from corpus.formats.parts import tool_call, user_of
from corpus.lines import BadLine

NAME = "sharegpt"


def recognises(value: Any) -> bool:
    """Return whether a decoded value looks like a ShareGPT conversation."""
    return isinstance(value, dict) and isinstance(value.get("conversations"), list)


def read(value: Any, line: int) -> Conversation | BadLine | None:
    """Return the conversation in one object, or a BadLine with the reason.

    Args:
        value: The decoded object.
        line: The number of its line, or of its place in the array, from 1.
    """
    if not recognises(value):
        return BadLine(line=line, reason='no list "conversations"')
    messages = [_message(utterance) for utterance in value["conversations"]]
    if isinstance(value.get("system"), str):
        messages.insert(0, {"role": "system", "content": value["system"]})
    turns = turns_of(messages, line)
    if isinstance(turns, BadLine):
        return turns
    turns = with_feedback(turns, value)
    if not turns:
        return BadLine(line=line, reason="no message has any text")
    return Conversation(source=user_of(value, value.get("metadata")), format=NAME, turns=turns)


def _message(utterance: Any) -> Any:
    """Return one utterance as an OpenAI message; any other value is returned as it is.

    `turns_of` refuses a value that is not an object.
    """
    if not isinstance(utterance, dict) or "from" not in utterance:
        return utterance
    content = utterance.get("value", utterance.get("text"))
    if utterance["from"] == "function_call":
        return {**utterance, "role": "assistant", "content": tool_call("", content)}
    return {**utterance, "role": utterance["from"], "content": content}
