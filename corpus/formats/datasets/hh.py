"""Reader of hh-rlhf: a chosen and a rejected conversation, each one text with the speakers' names in it.

Invariant: the turns that both sides share come first; the last turn is the rejected answer, with the chosen
one as its edit.
"""

import re
from dataclasses import replace
from typing import Any

from corpus.conversation import Conversation, Turn
from corpus.formats.format import Format, Reading
from corpus.lines import BadLine

NAME = "hh"

_SPEAKER = re.compile(r"\n\n(Human|Assistant): ?")


def recognises(value: Any) -> bool:
    """Return whether a value is a pair of conversations in one text each."""
    sides = [value.get(name) for name in ("chosen", "rejected")] if isinstance(value, dict) else [None]
    return all(isinstance(side, str) and side.lstrip().startswith("Human:") for side in sides)


def read(value: Any, line: int) -> Reading:
    """Return the conversation that ends with the rejected answer, or a BadLine with the reason.

    Args:
        value: The decoded line.
        line: The line's number from 1.
    """
    if not recognises(value):
        return BadLine(line=line, reason="chosen and rejected do not begin with the marker Human:")
    chosen, rejected = _turns(value["chosen"], line), _turns(value["rejected"], line)
    before = [(turn.role, turn.text) for turn in chosen[:-1]]
    if len(rejected) < 2 or rejected[-1].role != "assistant" or chosen[-1].role != "assistant":
        return BadLine(line=line, reason="a side does not end with an answer after the marker Assistant:")
    if before != [(turn.role, turn.text) for turn in rejected[:-1]]:
        return BadLine(line=line, reason="the two sides differ before their last answers")
    if chosen[-1].text == rejected[-1].text:
        return BadLine(line=line, reason="chosen and rejected are the same")
    last = replace(rejected[-1], edited=chosen[-1].text)
    return Conversation(source="", format=NAME, turns=(*rejected[:-1], last))


def _turns(text: str, line: int) -> tuple[Turn, ...]:
    """Return the turns of a conversation in one text; those without words are left out."""
    _, *pieces = _SPEAKER.split("\n\n" + text.lstrip())
    roles = {"Human": "user", "Assistant": "assistant"}
    spoken = zip(pieces[::2], pieces[1::2], strict=True)
    return tuple(Turn(role=roles[who], text=said.strip(), line=line) for who, said in spoken if said.strip())


FORMAT = Format(
    name=NAME,
    title="Preferences in the form of hh-rlhf",
    seen="the published files",
    link="https://huggingface.co/datasets/Anthropic/hh-rlhf",
    recognises=recognises,
    read=read,
)
