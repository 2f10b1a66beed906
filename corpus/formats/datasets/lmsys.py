"""Reader of LMSYS-Chat-1M and WildChat: `conversation` is a list of messages.

Invariant: one record is one conversation. The hashed address of WildChat is its source.
"""

from typing import Any

from corpus.formats.exchange import conversation_of
from corpus.formats.format import Format, Reading
from corpus.formats.parts import at, first, text_at, user_of
from corpus.lines import BadLine

NAME = "lmsys"


def recognises(value: Any) -> bool:
    """Return whether a value has its messages under `conversation`."""
    messages = at(value, "conversation")
    return isinstance(messages, list) and all(isinstance(each, dict) and "role" in each for each in messages)


def read(value: Any, line: int) -> Reading:
    """Return the conversation of a record, or a BadLine with the reason.

    Args:
        value: The decoded record.
        line: The number of its line, from 1.
    """
    if not recognises(value):
        return BadLine(line=line, reason='no list "conversation" of messages')
    address = first(value, ("hashed_ip", "conversation.0.hashed_ip", "conversation.1.hashed_ip"))
    source = user_of(value) or (address if isinstance(address, str) else text_at(value, "judge"))
    return conversation_of(value["conversation"], line, NAME, source=source, feedback=[value])


FORMAT = Format(
    name=NAME,
    title="LMSYS-Chat-1M and WildChat",
    seen="the published files",
    link="https://huggingface.co/datasets/allenai/WildChat-1M",
    recognises=recognises,
    read=read,
)
