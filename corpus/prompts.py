"""The prompts that Nightschool itself sends to the served model.

They are here, below all agents, because the recipe of the embedded model trains on the same words that
the dreamer and the pair builder send. Invariant: text from a log or from the model is only ever the content
of a user message, never part of an instruction.
"""

from collections.abc import Sequence

from corpus.aliases import Message


def broad_dream(condition: str, seeds: Sequence[str]) -> list[Message]:
    """Return the messages that ask for one more situation like the seeds."""
    return [
        {"role": "system", "content": f"Write one more message like these: {condition}."},
        {"role": "user", "content": "\n".join(seeds)},
    ]


def near_dream(condition: str, seed: str) -> list[Message]:
    """Return the messages that ask for a small change to one situation."""
    return [
        {"role": "system", "content": f"Change a little of this message: {condition}."},
        {"role": "user", "content": seed},
    ]


def instructed(messages: Sequence[Message], instruction: str) -> list[Message]:
    """Put the behaviour's instruction in front of a conversation; it is stripped again before training."""
    return [{"role": "system", "content": instruction}, *messages]
