"""Reader of ShareGPT logs, and of LLaMA-Factory's preferences in that form.

Each line is `{"conversations": [{"from": "human", "value": "..."}]}`, or the file is one array of such
objects. Invariant: one object is one whole conversation. An object that names no user gives a conversation
without a source. With `chosen` and `rejected` beside it, the rejected answer is the last turn and the chosen
one is its edit.
"""

from typing import Any

from corpus.formats.exchange import conversation_of
from corpus.formats.format import Format, Reading
from corpus.formats.parts import as_text, tool_call, user_of
from corpus.lines import BadLine

NAME = "sharegpt"


def recognises(value: Any) -> bool:
    """Return whether a decoded value looks like a ShareGPT conversation."""
    if not isinstance(value, dict) or not isinstance(value.get("conversations"), list):
        return False
    return all(
        isinstance(message, dict) and ("from" in message or "role" in message)
        for message in value["conversations"]
    )


def read(value: Any, line: int) -> Reading:
    """Return the conversation in one object, or a BadLine with the reason.

    Args:
        value: The decoded object.
        line: The number of its line, or of its place in the array, from 1.
    """
    if not isinstance(value, dict) or not isinstance(value.get("conversations"), list):
        return BadLine(line=line, reason='no list "conversations"')
    messages = [_message(utterance) for utterance in value["conversations"]]
    if isinstance(value.get("system"), str) and value["system"]:
        messages.insert(0, {"role": "system", "content": value["system"]})
    if "chosen" in value and "rejected" in value:
        chosen, rejected = _message(value["chosen"]), _message(value["rejected"])
        if not isinstance(chosen, dict) or not isinstance(rejected, dict):
            return BadLine(line=line, reason="chosen and rejected are no messages")
        messages.append({**rejected, "edited": as_text(chosen.get("content"))})
    return conversation_of(
        messages, line, NAME, source=user_of(value, value.get("metadata")), feedback=[value]
    )


def _message(utterance: Any) -> Any:
    """Return one utterance as an OpenAI message; any other value is returned as it is."""
    if not isinstance(utterance, dict) or "from" not in utterance:
        return utterance
    content = utterance.get("value", utterance.get("text"))
    if utterance["from"] == "function_call":
        return {**utterance, "role": "assistant", "content": tool_call("", content)}
    return {**utterance, "role": utterance["from"], "content": content}


FORMAT = Format(
    name=NAME,
    title="ShareGPT conversations; LLaMA-Factory's sharegpt forms",
    seen="from/value and role/content messages; ranking (chosen, rejected) and KTO (label) of LLaMA-Factory",
    link="https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md",
    recognises=recognises,
    read=read,
)
