"""Support for models whose chat template refuses system prompts, for every agent that sends one.

Invariant: the functions are pure.
"""

from collections.abc import Sequence

from corpus.aliases import Message
from corpus.errors import ModelUnavailable

REFUSED = "chat template refuses"
"""Text that the server's error message contains when the chat template does not accept the messages."""

NO_OPENING = "chat template cannot open"
"""Text that the server's error message contains when the chat template opens no turn for a role."""


def opens_no_turn(fault: ModelUnavailable) -> bool:
    """Return whether `fault` says that the model's chat template opens no turn for the role asked for."""
    return NO_OPENING in str(fault) or refuses(fault)


def refuses(fault: ModelUnavailable) -> bool:
    """Return whether `fault` is the server's refusal of a request because of the model's chat template."""
    return REFUSED in str(fault)


def without_system(messages: Sequence[Message]) -> list[Message]:
    """Return the conversation with its system prompt moved to the beginning of the user's first message."""
    if messages[0]["role"] != "system":
        return list(messages)
    first = {"role": "user", "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
    return [first, *messages[2:]]
