"""The prompts that Nightschool itself sends to the served model.

They are in `corpus` because the recipe of the embedded model trains on the same words that the dreamer and
the pair builder send. Invariant: text from a log or from the model is only ever the content of a user
message, never part of an instruction.
"""

from collections.abc import Sequence
from typing import Literal

from corpus.aliases import Message

Placement = Literal["system", "end", "hindsight"]
"""Where a conversation carries an instruction: see `instructed`."""
PLACEMENTS: tuple[Placement, ...] = ("system", "end", "hindsight")
"""All placements, in the order in which they are tried."""


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


def instructed(
    messages: Sequence[Message],
    instruction: str,
    placement: Placement = "system",
    *,
    answer: str = "",
    correction: str = "",
) -> list[Message]:
    """Return a conversation that also carries a behaviour's instruction; it is removed before training.

    Args:
        messages: The conversation, which ends with the user's request.
        instruction: The instruction.
        placement: `system` puts the instruction at the end of the system prompt, `end` at the end of the
            request. `hindsight` lets the request be answered badly and corrected: the next answer is better
            for knowing what was wrong with the first (Liu et al. 2023, "Chain of Hindsight").
        answer: For `hindsight`, the bad answer.
        correction: For `hindsight`, the user's correction of that answer; "" for the instruction itself.
    """
    if placement == "hindsight":
        said: list[Message] = [{"role": "assistant", "content": answer}]
        return [*messages, *said, {"role": "user", "content": correction or instruction}]
    if placement == "end":
        return [*messages[:-1], _longer(messages[-1], instruction)]
    if messages[0]["role"] == "system":
        return [_longer(messages[0], instruction), *messages[1:]]
    return [{"role": "system", "content": instruction}, *messages]


def _longer(message: Message, text: str) -> Message:
    """Return a message with a paragraph added at its end."""
    return {**message, "content": f"{message['content']}\n\n{text}"}
