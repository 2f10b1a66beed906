"""Reader of OpenAI's stored completions: a completion with its messages, and items of an evaluation.

Invariant: a completion without its messages has no question, so it is set aside.
"""

from typing import Any

from corpus.formats.exchange import Paths, read_exchange
from corpus.formats.format import Format, Reading
from corpus.formats.parts import first
from corpus.lines import BadLine

NAME = "stored-completions"

_QUESTIONS = ("messages", "input", "item.input", "item.messages", "request.messages", "input_messages")
_PATHS = Paths(
    needs=(),
    request=_QUESTIONS,
    response=("sample", "output", "choices_held"),
    time=("created", "created_at"),
)


def recognises(value: Any) -> bool:
    """Return whether a value is a stored completion, or an item of an evaluation with its sample."""
    if not isinstance(value, dict):
        return False
    item = isinstance(value.get("item"), dict) and isinstance(value.get("sample"), dict)
    return item or (value.get("object") == "chat.completion" and isinstance(value.get("choices"), list))


def read(value: Any, line: int) -> Reading:
    """Return the conversation of a completion, or a BadLine with the reason.

    Args:
        value: The decoded record.
        line: The number of its line, from 1.
    """
    if not recognises(value):
        return BadLine(line=line, reason="no stored completion")
    if first(value, _QUESTIONS) is None:
        return BadLine(line=line, reason='a completion without its messages: no "messages" beside "choices"')
    held = {"choices": value.get("choices")} if "choices" in value else None
    return read_exchange({**value, "choices_held": held}, line, _PATHS, NAME)


FORMAT = Format(
    name=NAME,
    title="Stored completions of OpenAI, with their messages; items of an evaluation",
    seen="completions with `messages` or `input`; `item` with `sample`",
    link="https://platform.openai.com/docs/api-reference/chat/list",
    recognises=recognises,
    read=read,
)
