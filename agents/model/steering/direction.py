"""A direction as it crosses the trainer's socket: what is added to the residual stream after one layer.

Invariant: plain bytes, so that whoever only passes it on loads neither torch nor numpy. Knows no concept.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Direction:
    """What is added to the residual stream of every token after one layer."""

    layer: int
    """From 0."""
    data: bytes = field(repr=False)
    """float32, (hidden,)."""
