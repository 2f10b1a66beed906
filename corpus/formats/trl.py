"""TRL preferences: prompt, chosen and rejected, as texts or as lists of messages.

Invariant: the rejected answer is the last turn, and the chosen one is that turn's edit, in the same form as
an answer that a person rewrote. KTO's lines (completion and label) are rated answers. This module does not
know which model gave the rejected answer.
"""

from dataclasses import replace
from typing import Any

from corpus.aliases import Json
from corpus.conversation import Conversation, Turn
from corpus.formats.openai import turns_of
from corpus.formats.parts import user_of
from corpus.lines import BadLine

NAME = "trl"


def recognises(value: Any) -> bool:
    """Return whether this looks like a preference."""
    if not isinstance(value, dict):
        return False
    return ("chosen" in value and "rejected" in value) or ("completion" in value and "label" in value)


def read(value: Any, line: int) -> Conversation | BadLine | None:
    """Read the preference on one line, as a conversation that ends with the rejected answer."""
    if not recognises(value):
        return BadLine(line=line, reason='no "chosen" and "rejected"')
    paired = "chosen" in value
    chosen = _side(value["chosen" if paired else "completion"], "assistant", line)
    rejected = _side(value["rejected"], "assistant", line) if paired else chosen
    prompt = _side(value.get("prompt", []), "user", line)
    if isinstance(chosen, BadLine) or isinstance(rejected, BadLine) or isinstance(prompt, BadLine):
        return BadLine(line=line, reason="a side is neither a text nor a list of messages")
    if paired and chosen == rejected:
        return BadLine(line=line, reason="chosen and rejected are the same")
    shared = _shared(chosen, rejected) if paired else 0
    opening = _joined(prompt, chosen[:shared])
    if not opening:
        return BadLine(line=line, reason="no prompt")
    answer = _answer(value, chosen[shared:], rejected[shared:])
    if answer is None:
        return BadLine(line=line, reason="a side is not one answer to the prompt")
    return Conversation(source=user_of(value, value.get("metadata")), format=NAME, turns=(*opening, answer))


def _answer(value: Json, chosen: tuple[Turn, ...], rejected: tuple[Turn, ...]) -> Turn | None:
    """Return the answer of this line: a rejected one with the chosen one as its edit, or a rated one.

    Return None unless chosen and rejected are one turn of the model each.
    """
    if any(len(side) != 1 or side[0].role != "assistant" for side in (chosen, rejected)):
        return None
    if "chosen" in value:
        return replace(rejected[0], edited=chosen[0].text)
    return replace(rejected[0], rating=1.0 if value["label"] else -1.0)


def _joined(prompt: tuple[Turn, ...], shared: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Join the prompt and the beginning of both sides, which may repeat the prompt."""
    repeated = [_content(turn) for turn in shared[: len(prompt)]] == [_content(turn) for turn in prompt]
    return shared if repeated else (*prompt, *shared)


def _side(side: Any, role: str, line: int) -> tuple[Turn, ...] | BadLine:
    """Make turns of one side; a text is one turn."""
    if isinstance(side, str):
        side = [{"role": role, "content": side}]
    if not isinstance(side, list):
        return BadLine(line=line, reason="a side is neither a text nor a list of messages")
    return turns_of(side, line)


def _content(turn: Turn) -> tuple[str, str]:
    return turn.role, turn.text


def _shared(chosen: tuple[Turn, ...], rejected: tuple[Turn, ...]) -> int:
    """Count the messages that both sides begin with; the last message of a side is always its answer."""
    most = min(len(chosen), len(rejected)) - 1
    return next((n for n in range(most) if _content(chosen[n]) != _content(rejected[n])), max(most, 0))
