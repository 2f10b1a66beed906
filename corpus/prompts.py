"""The prompts that the served model is given by Nightschool itself.

They stand here, below everything, because the embedded model's recipe trains on the very same words that
the dreamer and the pair builder use. Invariant: what comes from a log or from the model is only ever the
content of a user message, never part of an instruction.
"""

from collections.abc import Sequence

from corpus.aliases import Message


def broad_dream(condition: str, seeds: Sequence[str]) -> list[Message]:
    """Ask for one more situation like the seeds."""
    return [
        {"role": "system", "content": f"Write one more message like these: {condition}."},
        {"role": "user", "content": "\n".join(seeds)},
    ]


def near_dream(condition: str, seed: str) -> list[Message]:
    """Ask for a small change to one situation."""
    return [
        {"role": "system", "content": f"Change a little of this message: {condition}."},
        {"role": "user", "content": seed},
    ]


def instructed(messages: Sequence[Message], instruction: str) -> list[Message]:
    """The conversation with the behaviour's instruction in front; stripped again before training."""
    return [{"role": "system", "content": instruction}, *messages]
