"""The prompts of the abilities, their digest, and the judgement on an answer.

Invariant: the same files give the same prompts in the same order. A judgement is pure and always has a
reason.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

from corpus.abilities.checks import CHECKS
from corpus.aliases import Message
from corpus.world.checks import Judgement

HERE = Path(__file__).parent
NAME = "abilities"
"""Name of the guard that is measured on these prompts, among the names of behaviours."""


@dataclass(frozen=True, kw_only=True)
class AbilityPrompt:
    """A conversation that ends with a request, and the check of the answer."""

    topic: str
    messages: tuple[Message, ...]
    check: str
    """Name of a function in `corpus.abilities.checks`."""
    parameters: Mapping[str, Any]
    """Its keyword arguments."""
    passes: str
    """An answer that passes."""
    fails: str
    """An answer that fails."""


def load(root: Path = HERE) -> tuple[AbilityPrompt, ...]:
    """Return every prompt, by topic and place in its file."""
    prompts = []
    for path in sorted(root.glob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            row = json.loads(line)
            prompts.append(AbilityPrompt(topic=path.stem, **{**row, "messages": tuple(row["messages"])}))
    return tuple(prompts)


def select(prompts: Sequence[AbilityPrompt], count: int) -> tuple[AbilityPrompt, ...]:
    """Return up to `count` prompts, taken from the topics in turn."""
    topics = [list(members) for _, members in groupby(prompts, key=lambda prompt: prompt.topic)]
    in_turn = [prompt for row in zip_longest(*topics) for prompt in row if prompt is not None]
    return tuple(in_turn[:count])


def digest(prompts: Sequence[AbilityPrompt]) -> str:
    """Return the SHA-256 of the prompts in their order, with their checks and parameters."""
    rows = json.dumps([astuple(prompt) for prompt in prompts], sort_keys=True)
    return hashlib.sha256(rows.encode()).hexdigest()


def judge(prompt: AbilityPrompt, answer: str) -> Judgement:
    """Judge an answer by the prompt's check."""
    if not answer.strip():
        return Judgement(passed=False, reason="empty answer")
    fault = CHECKS[prompt.check](answer.strip(), **prompt.parameters)
    return Judgement(passed=not fault, reason=fault or "does what was asked")
