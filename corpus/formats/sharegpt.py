"""ShareGPT: `{"conversations": [{"from": "human", "value": "..."}]}` a line, or one array of such objects.

Invariant: one object is one whole conversation. The user stays unknown where the object names none.
"""

from typing import Any

from corpus.conversation import Conversation
from corpus.formats.openai import turns_of, with_feedback
from corpus.formats.parts import tool_call, user_of
from corpus.lines import BadLine

NAME = "sharegpt"


def recognises(value: Any) -> bool:
    """Return whether this looks like an object of this format."""
    return isinstance(value, dict) and isinstance(value.get("conversations"), list)


def read(value: Any, line: int) -> Conversation | BadLine | None:
    """Read the conversation in one object."""
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
    """Return one utterance as an OpenAI message; `turns_of` refuses anything that is not an object."""
    if not isinstance(utterance, dict) or "from" not in utterance:
        return utterance
    content = utterance.get("value", utterance.get("text"))
    if utterance["from"] == "function_call":
        return {**utterance, "role": "assistant", "content": tool_call("", content)}
    return {**utterance, "role": utterance["from"], "content": content}
