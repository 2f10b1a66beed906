"""Reader of TRL preferences: prompt, chosen and rejected answer, as texts or as lists of messages.

Invariant: the last turn of the conversation is the rejected answer. The chosen answer is the edit of this
turn, as if a person had rewritten it. A line of KTO (completion and label) gives an answer with a rating.
This module does not know which model gave the rejected answer.
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
    """Return whether a decoded line looks like a preference of TRL or a rated answer of KTO."""
    if not isinstance(value, dict):
        return False
    return ("chosen" in value and "rejected" in value) or ("completion" in value and "label" in value)


def read(value: Any, line: int) -> Conversation | BadLine | None:
    """Return the preference on one line as a conversation that ends with the rejected or the rated answer.

    Args:
        value: The decoded line.
        line: The line's number from 1.

    Returns:
        A BadLine with the reason if the line cannot be read.
    """
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
    """Return the last turn: the rejected answer with the chosen one as its edit, or the rated answer.

    Args:
        value: The decoded line.
        chosen: The turns of the chosen side after the messages that both sides share.
        rejected: The turns of the rejected side after these messages.

    Returns:
        None unless both sides are a single turn of the model.
    """
    if any(len(side) != 1 or side[0].role != "assistant" for side in (chosen, rejected)):
        return None
    if "chosen" in value:
        return replace(rejected[0], edited=chosen[0].text)
    return replace(rejected[0], rating=1.0 if value["label"] else -1.0)


def _joined(prompt: tuple[Turn, ...], shared: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Return the prompt and the shared beginning of both sides, with the prompt once if they repeat it."""
    repeated = [_content(turn) for turn in shared[: len(prompt)]] == [_content(turn) for turn in prompt]
    return shared if repeated else (*prompt, *shared)


def _side(side: Any, role: str, line: int) -> tuple[Turn, ...] | BadLine:
    """Return one side as turns, or a BadLine; a side that is a text becomes one turn of this role."""
    if isinstance(side, str):
        side = [{"role": role, "content": side}]
    if not isinstance(side, list):
        return BadLine(line=line, reason="a side is neither a text nor a list of messages")
    return turns_of(side, line)


def _content(turn: Turn) -> tuple[str, str]:
    return turn.role, turn.text


def _shared(chosen: tuple[Turn, ...], rejected: tuple[Turn, ...]) -> int:
    """Return how many messages both sides begin with; the last message of a side is never counted.

    The last message is the answer.
    """
    most = min(len(chosen), len(rejected)) - 1
    return next((n for n in range(most) if _content(chosen[n]) != _content(rejected[n])), max(most, 0))
