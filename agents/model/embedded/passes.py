"""What goes through the model in one forward pass: parts of rows.

Invariant: a part's tokens follow those of the row's earlier parts without a gap. This module holds values
only.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """Some tokens of one row: a prompt, a piece of a prompt, or one token of an answer."""

    row: int
    """The number that `Forward.open` returned."""
    tokens: Sequence[int]
    start: int
    """How many tokens of the row have been read before."""
    wanted: bool
    """Whether the logits after the last of the tokens are wanted."""
