"""Reader of preferences and rated answers in TRL's forms: prompt, chosen, rejected, completion, label.

Invariant: the last turn of the conversation is the rejected answer. The chosen answer is the edit of this
turn, as if a person had rewritten it. A line of KTO (completion and label) gives an answer with a rating. If
an answer has several messages because it calls tools, its last words count as the answer. This module does
not know which model gave the rejected answer.
"""

from dataclasses import replace
from typing import Any

from corpus.aliases import Json
from corpus.conversation import Conversation, Turn
from corpus.formats.feedback import THUMBS, rated
from corpus.formats.format import Format, Reading
from corpus.formats.messages import turns_of
from corpus.formats.parts import as_text, keys_of, parsed, user_of
from corpus.lines import BadLine

NAME = "trl"

_QUESTIONS = ("prompt", "question", "instruction")
_NEITHER = "a side is neither a text nor a list of messages"


def recognises(value: Any) -> bool:
    """Return whether a decoded line looks like a preference of TRL or a rated answer of KTO."""
    if not isinstance(value, dict) or isinstance(value.get("conversations"), list):
        return False
    if any(isinstance(value.get(side), str) and "\n\nHuman:" in value[side] for side in ("chosen",)):
        return False  # one text for the whole conversation
    return _paired(value) or _completed(value)


def _paired(value: Any) -> bool:
    return isinstance(value, dict) and "chosen" in value and "rejected" in value


def _completed(value: Any) -> bool:
    """Return whether a value is an answer: rated or not, in one piece or in steps."""
    if not isinstance(value, dict):
        return False
    steps = isinstance(value.get("completions"), list) and isinstance(value.get("labels"), list)
    return ("completion" in value and ("label" in value or "prompt" in value)) or steps


def _completion(value: Json) -> Any:
    """Return the answer of a value; of an answer in steps, all of them as one text."""
    steps = value.get("completions")
    return "\n".join(map(as_text, steps)) if isinstance(steps, list) else value["completion"]


def read(value: Any, line: int) -> Reading:
    """Return the preference on one line as a conversation that ends with the rejected or the rated answer.

    Args:
        value: The decoded line.
        line: The line's number from 1.

    Returns:
        A BadLine with the reason if the line cannot be read.
    """
    paired = _paired(value)
    if not paired and not _completed(value):
        return BadLine(line=line, reason='no "chosen" and "rejected"')
    chosen = _side(value["chosen"] if paired else _completion(value), "assistant", line)
    rejected = _side(value["rejected"], "assistant", line) if paired else chosen
    prompt = _side(_prompt(value), "user", line)
    for side in (chosen, rejected, prompt):
        if isinstance(side, BadLine):
            return side if side.reason.startswith("message") else BadLine(line=line, reason=_NEITHER)
    assert not (isinstance(chosen, BadLine) or isinstance(rejected, BadLine) or isinstance(prompt, BadLine))
    if paired and chosen == rejected:
        return BadLine(line=line, reason="chosen and rejected are the same")
    shared = _shared(chosen, rejected) if paired else 0
    opening = _joined(_system(value, line, prompt), chosen[:shared])
    if not opening:
        questions = " or ".join(_QUESTIONS)
        return BadLine(line=line, reason=f"no prompt (no {questions} with a text; {keys_of(value)})")
    answer = _answer(value, chosen[shared:], rejected[shared:])
    if answer is None:
        return BadLine(line=line, reason="a side is not one answer to the prompt")
    return Conversation(source=user_of(value, value.get("metadata")), format=NAME, turns=(*opening, *answer))


def _prompt(value: Json) -> Any:
    """Return what was asked: the prompt, or the question or instruction with its input below it."""
    asked: Any = next((value[name] for name in _QUESTIONS if value.get(name)), [])
    more = value.get("input")
    return f"{asked}\n{more}" if isinstance(asked, str) and isinstance(more, str) and more.strip() else asked


def _system(value: Json, line: int, prompt: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Return the prompt with the system prompt that stands beside it before it, if there is one."""
    system = value.get("system")
    if not isinstance(system, str) or not system.strip():
        return prompt
    return (Turn(role="system", text=system, line=line), *prompt)


def _answer(value: Json, chosen: tuple[Turn, ...], rejected: tuple[Turn, ...]) -> tuple[Turn, ...] | None:
    """Return the last turns: the rejected answer with the chosen one as its edit, or the rated answer.

    Args:
        value: The decoded line.
        chosen: The turns of the chosen side after the messages that both sides share.
        rejected: The turns of the rejected side after these messages.

    Returns:
        None unless both sides are an answer of the model, possibly with calls of tools in it.
    """
    for side in (chosen, rejected):
        roles = {turn.role for turn in side}
        if not side or side[-1].role != "assistant" or not roles <= {"assistant", "tool"}:
            return None
    if "chosen" in value:
        better = "\n".join(turn.text for turn in chosen if turn.role == "assistant")
        return (*rejected[:-1], replace(rejected[-1], edited=better))
    labels = value.get("labels")
    label = all(labels) if isinstance(labels, list) and labels else value.get("label")  # of steps: all right
    rating = rated("label", label)
    if isinstance(rating, float) or rating is None:
        return (*rejected[:-1], replace(rejected[-1], rating=rating))
    if isinstance(rating.value, float):  # a label says yes or no, as a number too
        sign = THUMBS.rating(1.0 if rating.value > 0 else 0.0)
        return (*rejected[:-1], replace(rejected[-1], rating=sign))
    return (*rejected[:-1], replace(rejected[-1], score=rating))


def _joined(prompt: tuple[Turn, ...], shared: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Return the prompt and the shared beginning of both sides, with the prompt once if they repeat it."""
    repeated = [_content(turn) for turn in shared[: len(prompt)]] == [_content(turn) for turn in prompt]
    return shared if repeated else (*prompt, *shared)


def _side(side: Any, role: str, line: int) -> tuple[Turn, ...] | BadLine:
    """Return one side as turns, or a BadLine; a side that is a text becomes one turn of this role."""
    side = parsed(side)
    if isinstance(side, dict):
        side = [side]
    if isinstance(side, str):
        side = [{"role": role, "content": side}]
    if not isinstance(side, list):
        return BadLine(line=line, reason=_NEITHER)
    return turns_of(side, line)


def _content(turn: Turn) -> tuple[str, str]:
    return turn.role, turn.text


def _shared(chosen: tuple[Turn, ...], rejected: tuple[Turn, ...]) -> int:
    """Return how many messages both sides begin with; the last message of a side is never counted.

    The last message is the answer.
    """
    most = min(len(chosen), len(rejected)) - 1
    return next((n for n in range(most) if _content(chosen[n]) != _content(rejected[n])), max(most, 0))


FORMAT = Format(
    name=NAME,
    title="Preferences and rated answers of TRL, Alpaca and Orca pairs",
    seen="TRL's standard and conversational forms, with and without a prompt; KTO labels; steps; tool calls",
    link="https://huggingface.co/docs/trl/dataset_formats",
    recognises=recognises,
    read=read,
)
