"""The prompts that measure a model's abilities, their digest, and the judgement of an answer.

Invariant: the same files give the same prompts in the same order. A judgement depends on the answer alone and
always has a reason.
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
"""Name of the result on these prompts, where results of behaviours are stored; no behaviour may have it."""


@dataclass(frozen=True, kw_only=True)
class AbilityPrompt:
    """A conversation that ends with a request, and the check that an answer must pass."""

    topic: str
    messages: tuple[Message, ...]
    check: str
    """Name of a function in `corpus.abilities.checks`."""
    parameters: Mapping[str, Any]
    """Keyword arguments of the check."""
    passes: str
    """An answer that passes."""
    fails: str
    """An answer that fails."""


def load(root: Path = HERE) -> tuple[AbilityPrompt, ...]:
    """Return every prompt in the files of `root`, sorted by topic (the file's name) and then by line."""
    prompts = []
    for path in sorted(root.glob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            row = json.loads(line)
            prompts.append(AbilityPrompt(topic=path.stem, **{**row, "messages": tuple(row["messages"])}))
    return tuple(prompts)


def select(prompts: Sequence[AbilityPrompt], count: int) -> tuple[AbilityPrompt, ...]:
    """Return up to `count` prompts: the first of each topic, then the second of each, and so on."""
    topics = [list(members) for _, members in groupby(prompts, key=lambda prompt: prompt.topic)]
    in_turn = [prompt for row in zip_longest(*topics) for prompt in row if prompt is not None]
    return tuple(in_turn[:count])


def digest(prompts: Sequence[AbilityPrompt]) -> str:
    """Return the SHA-256 of the prompts in their order, with their checks and parameters."""
    rows = json.dumps([astuple(prompt) for prompt in prompts], sort_keys=True)
    return hashlib.sha256(rows.encode()).hexdigest()


def judge(prompt: AbilityPrompt, answer: str) -> Judgement:
    """Return whether the answer passes the prompt's check, with the reason; an empty answer fails."""
    if not answer.strip():
        return Judgement(passed=False, reason="empty answer")
    fault = CHECKS[prompt.check](answer.strip(), **prompt.parameters)
    return Judgement(passed=not fault, reason=fault or "does what was asked")
