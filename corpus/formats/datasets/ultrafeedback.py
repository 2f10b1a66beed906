"""Reader of UltraFeedback: an instruction with several completions and their scores.

Invariant: the worst completion is the answer, with the best one as its edit. Completions of equal scores give
no preference.
"""

from dataclasses import replace
from typing import Any

from corpus.aliases import Json
from corpus.conversation import Turn
from corpus.formats.exchange import conversation_of
from corpus.formats.format import Format, Reading
from corpus.formats.parts import at, first, text_at
from corpus.lines import BadLine

NAME = "ultrafeedback"

_SCORES = ("overall_score", "fine-grained_score", "score", "rating")


def recognises(value: Any) -> bool:
    """Return whether a value is an instruction with scored completions."""
    return isinstance(at(value, "instruction"), str) and isinstance(at(value, "completions.0.response"), str)


def read(value: Any, line: int) -> Reading:
    """Return the worst completion with the best one as its edit, or a BadLine with the reason.

    Args:
        value: The decoded record.
        line: The number of its line, from 1.
    """
    if not recognises(value):
        return BadLine(line=line, reason='no "instruction" and "completions"')
    scored = [(score, each) for each in value["completions"] if (score := _score(each)) is not None]
    scored.sort(key=lambda pair: pair[0])
    if len(scored) < 2 or scored[0][0] == scored[-1][0]:
        return BadLine(line=line, reason="no two completions with different scores")
    worst, best = text_at(scored[0][1], "response"), text_at(scored[-1][1], "response")
    messages = [{"role": "user", "content": value["instruction"]}, {"role": "assistant", "content": worst}]
    found = conversation_of(messages, line, NAME)
    if isinstance(found, BadLine):
        return found
    last: Turn = replace(found.turns[-1], edited=best)
    return replace(found, turns=(*found.turns[:-1], last))


def _score(completion: Json) -> float | None:
    """Return the overall score of a completion; None without one."""
    score = first(completion, _SCORES)
    try:
        return float(score)
    except (TypeError, ValueError):
        return None


FORMAT = Format(
    name=NAME,
    title="UltraFeedback",
    seen="the published files; the binarized form is read as `trl`",
    link="https://huggingface.co/datasets/openbmb/UltraFeedback",
    recognises=recognises,
    read=read,
)
