"""ShareGPT: `{"conversations": [{"from": "human", "value": "..."}]}` a line, or one array of such objects.

Invariant: one object is one whole conversation. Does not know who the user is where the object does not say.
"""

from typing import Any

from corpus.conversation import Conversation
from corpus.formats.openai import turns_of, with_feedback
from corpus.formats.parts import tool_call, user_of
from corpus.lines import BadLine

NAME = "sharegpt"


def recognises(value: Any) -> bool:
    """Whether this looks like an object of ours."""
    return isinstance(value, dict) and isinstance(value.get("conversations"), list)


def read(value: Any, line: int) -> Conversation | BadLine | None:
    """The conversation in one object."""
    if not recognises(value):
        return BadLine(line=line, reason='no list "conversations"')
    messages = [_message(said) for said in value["conversations"]]
    if isinstance(value.get("system"), str):
        messages.insert(0, {"role": "system", "content": value["system"]})
    turns = turns_of(messages, line)
    if isinstance(turns, BadLine):
        return turns
    turns = with_feedback(turns, value)
    if not turns:
        return BadLine(line=line, reason="no message has any text")
    return Conversation(source=user_of(value, value.get("metadata")), format=NAME, turns=turns)


def _message(said: Any) -> Any:
    """One utterance in OpenAI's words; what is not an object is left for the reader of messages to refuse."""
    if not isinstance(said, dict) or "from" not in said:
        return said
    content = said.get("value", said.get("text"))
    if said["from"] == "function_call":
        return {**said, "role": "assistant", "content": tool_call("", content)}
    return {**said, "role": said["from"], "content": content}
