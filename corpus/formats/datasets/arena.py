"""Reader of Arena votes: two conversations of the same questions, and which of them a person chose.

Invariant: a vote for a side gives the other side's conversation, with the chosen answer as the edit of its
last answer. A tie gives both sides: without ratings, or with bad ratings if both were bad.
"""

from dataclasses import replace
from typing import Any

from corpus.aliases import Json
from corpus.conversation import Conversation
from corpus.formats.exchange import conversation_of
from corpus.formats.format import Format, Part, Reading
from corpus.formats.parts import parsed, text_at
from corpus.lines import BadLine

NAME = "arena"

_SIDES = {"model_a": "a", "model_b": "b", "a": "a", "b": "b", "left": "a", "right": "b"}
_BAD = ("tie (bothbad)", "both_bad", "bothbad", "tie_bothbad", "bad")


def recognises(value: Any) -> bool:
    """Return whether a value has two sides and a vote."""
    if not isinstance(value, dict):
        return False
    sides = all(f"conversation_{side}" in value or f"response_{side}" in value for side in "ab")
    return sides and ("winner" in value or "winner_model_a" in value or "vote" in value)


def read(value: Any, line: int) -> Reading:
    """Return the conversations that a vote gives, or a BadLine with the reason.

    Args:
        value: The decoded record.
        line: The number of its line, from 1.
    """
    if not recognises(value):
        return BadLine(line=line, reason="no two sides with a winner")
    vote = _vote(value)
    if vote is None:
        return BadLine(line=line, reason="the winner is neither model_a, model_b nor a tie")
    source = text_at(value, "judge")
    sides: dict[str, Part] = {
        side: conversation_of(_messages(value, side), line, NAME, source=source) for side in "ab"
    }
    for side in sides.values():
        if isinstance(side, BadLine):
            return side
    if vote in ("a", "b"):
        return _chosen(sides[vote], sides["b" if vote == "a" else "a"], line)
    return tuple(_rated(side, -1.0 if vote == "bad" else None) for side in sides.values())


def _vote(value: Json) -> str | None:
    """Return the side that was chosen, "tie" or "bad"; None for a vote that is not understood."""
    for name, vote in (("winner_model_a", "a"), ("winner_model_b", "b"), ("winner_tie", "tie")):
        if value.get(name) in (1, True, "1"):
            return vote
    winner = str(value.get("winner", value.get("vote"))).strip().lower()
    if winner in _BAD:
        return "bad"
    return "tie" if winner.startswith("tie") or winner == "both_good" else _SIDES.get(winner)


def _messages(value: Json, side: str) -> list[Any]:
    """Return the messages of a side: a conversation, or prompts and responses in turn."""
    held = parsed(value.get(f"conversation_{side}"))
    if isinstance(held, list):
        return held
    prompts, answers = parsed(value.get("prompt")), parsed(value.get(f"response_{side}"))
    prompts = prompts if isinstance(prompts, list) else [prompts]
    answers = answers if isinstance(answers, list) else [answers]
    pairs = zip(prompts, answers, strict=False)
    return [message for prompt, answer in pairs for message in (
        {"role": "user", "content": prompt}, {"role": "assistant", "content": answer})]  # fmt: skip


def _chosen(better: Part, worse: Part, line: int) -> Part:
    """Return the side that was not chosen, with the chosen answer as the edit of its last answer."""
    assert isinstance(better, Conversation) and isinstance(worse, Conversation)
    if better.turns[-1].role != "assistant" or worse.turns[-1].role != "assistant":
        return BadLine(line=line, reason="a side does not end with an answer")
    if better.turns[-1].text == worse.turns[-1].text:
        return BadLine(line=line, reason="both sides are the same")
    if [turn.text for turn in better.turns[:-1]] != [turn.text for turn in worse.turns[:-1]]:
        return _rated(worse, -1.0)  # after other answers: the last ones do not compare
    return replace(worse, turns=(*worse.turns[:-1], replace(worse.turns[-1], edited=better.turns[-1].text)))


def _rated(side: Part, rating: float | None) -> Part:
    """Return a side with a rating of its last answer."""
    assert isinstance(side, Conversation)
    last = side.turns[-1]
    rated = replace(last, rating=rating) if last.role == "assistant" else last
    return replace(side, turns=(*side.turns[:-1], rated))


FORMAT = Format(
    name=NAME,
    title="Arena votes",
    seen="chatbot_arena_conversations; the preferences of 55k, 100k and 140k votes",
    link="https://huggingface.co/datasets/lmsys/chatbot_arena_conversations",
    recognises=recognises,
    read=read,
)
