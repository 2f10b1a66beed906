"""Reader of Alpaca's form: an instruction with its output, as LLaMA-Factory has it too.

Invariant: the pairs under `history` come before the instruction. A label under `kto_tag` rates the output.
"""

from typing import Any

from corpus.aliases import Json
from corpus.formats.exchange import conversation_of
from corpus.formats.format import Format, Reading
from corpus.formats.parts import at, user_of
from corpus.lines import BadLine

NAME = "alpaca"

_QUESTIONS = ("instruction", "prompt", "query", "question")
_ANSWERS = ("output", "response", "answer")


def recognises(value: Any) -> bool:
    """Return whether a value has an instruction and its output, both as text."""
    if not isinstance(value, dict):
        return False
    asked = next((value[name] for name in _QUESTIONS if name in value), None)
    told = next((value[name] for name in _ANSWERS if name in value), None)
    return isinstance(asked, str) and isinstance(told, str)


def read(value: Any, line: int) -> Reading:
    """Return the conversation of a record, or a BadLine with the reason.

    Args:
        value: The decoded record.
        line: The number of its line, from 1.
    """
    if not recognises(value):
        return BadLine(line=line, reason="no instruction with an output")
    question = next(value[name] for name in _QUESTIONS if name in value)
    more = value.get("input")
    asked = f"{question}\n{more}" if isinstance(more, str) and more.strip() else question
    answer = {"role": "assistant", "content": next(value[name] for name in _ANSWERS if name in value)}
    system = value.get("system") or value.get("system_prompt")
    opening = [{"role": "system", "content": system}] if isinstance(system, str) else []
    messages = [*opening, *_history(value), {"role": "user", "content": asked}, answer]
    rated = [value, {"label": value["kto_tag"]} if "kto_tag" in value else {}]
    return conversation_of(messages, line, NAME, source=user_of(value, value.get("metadata")), feedback=rated)


def _history(value: Json) -> list[Json]:
    """Return the earlier questions and answers as messages."""
    pairs = value.get("history")
    found = []
    for pair in pairs if isinstance(pairs, list) else []:
        asked, answered = at(pair, "0"), at(pair, "1")
        found += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return found


FORMAT = Format(
    name=NAME,
    title="Instructions with their outputs: Alpaca, LLaMA-Factory's alpaca forms",
    seen="instruction, input, output; history, system and kto_tag of LLaMA-Factory",
    link="https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md",
    recognises=recognises,
    read=read,
)
