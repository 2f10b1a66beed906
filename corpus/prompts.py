"""The prompts that Nightschool itself sends to the served model.

They are in `corpus` because the recipe of the embedded model trains on the same words that the dreamer and
the pair builder send. Invariant: text from a log or from the model is only ever the content of a user
message, never part of an instruction.
"""

from collections.abc import Sequence

from corpus.aliases import Message


def broad_dream(condition: str, seeds: Sequence[str]) -> list[Message]:
    """Return the messages that ask the model for one more request like these.

    Args:
        condition: The situation in which the behaviour applies, as a clause.
        seeds: Requests made in this situation.
    """
    return [
        {"role": "system", "content": f"Write one more message like these: {condition}."},
        {"role": "user", "content": "\n".join(seeds)},
    ]


def near_dream(condition: str, seed: str) -> list[Message]:
    """Return the messages that ask the model to change a request a little.

    Args:
        condition: The situation in which the behaviour applies, as a clause.
        seed: A request made in this situation.
    """
    return [
        {"role": "system", "content": f"Change a little of this message: {condition}."},
        {"role": "user", "content": seed},
    ]


def instructed(messages: Sequence[Message], instruction: str) -> list[Message]:
    """Return a conversation with a behaviour's instruction as its system prompt.

    The instruction is removed again before training.
    """
    return [{"role": "system", "content": instruction}, *messages]
