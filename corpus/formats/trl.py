"""TRL preferences: prompt, chosen and rejected, as texts or as lists of messages.

Invariant: the rejected answer is the last turn, and what was preferred to it is that turn's edit: the same
shape as an answer that a person rewrote. KTO's lines (completion and label) are rated answers. Does not
know which model gave the rejected answer.
"""

from typing import Any

from corpus.conversation import Conversation, Turn
from corpus.formats.openai import turns_of
from corpus.formats.parts import user_of
from corpus.lines import BadLine

NAME = "trl"


def recognises(value: Any) -> bool:
    """Whether this looks like a preference."""
    if not isinstance(value, dict):
        return False
    return ("chosen" in value and "rejected" in value) or ("completion" in value and "label" in value)


def read(value: Any, line: int) -> Conversation | BadLine | None:
    """The preference on one line, as a conversation that ends with the rejected answer."""
    if not recognises(value):
        return BadLine(line=line, reason='no "chosen" and "rejected"')
    paired = "chosen" in value
    sides = (value["chosen"], value["rejected"]) if paired else (value["completion"],) * 2
    read_sides = [_side(side, "assistant", line) for side in (*sides, value.get("prompt", []))]
    bad = next((side for side in read_sides if isinstance(side, BadLine)), None)
    if bad is not None:
        return bad
    chosen, rejected, prompt = (side for side in read_sides if not isinstance(side, BadLine))
    if isinstance(value.get("prompt"), str):
        prompt = tuple(_as_role(turn, "user") for turn in prompt)
    return _conversation(value, line, prompt, chosen, rejected)


def _conversation(
    value: dict[str, Any],
    line: int,
    prompt: tuple[Turn, ...],
    chosen: tuple[Turn, ...],
    rejected: tuple[Turn, ...],
) -> Conversation | BadLine:
    """The parts put together: what both sides begin with is the prompt, the rest is the answer."""
    paired = "chosen" in value
    shared = _shared(chosen, rejected) if paired else 0
    opening = chosen[:shared]
    if [_said(turn) for turn in opening[: len(prompt)]] != [_said(turn) for turn in prompt]:
        opening = (*prompt, *opening)
    better, worse = _answer(chosen[shared:]), _answer(rejected[shared:])
    if not opening:
        return BadLine(line=line, reason="no prompt")
    if paired and chosen == rejected:
        return BadLine(line=line, reason="chosen and rejected are the same")
    if not better or not worse:
        return BadLine(line=line, reason="the two sides differ in more than one answer")
    rating = None if paired else (1.0 if value["label"] else -1.0)
    answer = Turn(role="assistant", text=worse, line=line, edited=better if paired else None, rating=rating)
    return Conversation(source=user_of(value, value.get("metadata")), format=NAME, turns=(*opening, answer))


def _side(side: Any, role: str, line: int) -> tuple[Turn, ...] | BadLine:
    """One side as turns; a text is one turn."""
    if isinstance(side, str):
        side = [{"role": role, "content": side}]
    if not isinstance(side, list):
        return BadLine(line=line, reason="a side is neither a text nor a list of messages")
    return turns_of(side, line)


def _as_role(turn: Turn, role: str) -> Turn:
    return Turn(role=role, text=turn.text, line=turn.line)


def _said(turn: Turn) -> tuple[str, str]:
    return turn.role, turn.text


def _shared(chosen: tuple[Turn, ...], rejected: tuple[Turn, ...]) -> int:
    """How many messages both sides begin with; the last message of a side is always its answer."""
    most = min(len(chosen), len(rejected)) - 1
    return next((n for n in range(most) if _said(chosen[n]) != _said(rejected[n])), max(most, 0))


def _answer(turns: tuple[Turn, ...]) -> str:
    """The text of a side's answer; "" unless it is one assistant's turn."""
    return turns[0].text if len(turns) == 1 and turns[0].role == "assistant" else ""
