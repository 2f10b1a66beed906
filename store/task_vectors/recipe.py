"""What a merge is made of, and how much a change of weights is: plain records, which cross sockets.

Invariant: none but the standard library is needed.
"""

from dataclasses import dataclass
from math import hypot


@dataclass(frozen=True, kw_only=True)
class Part:
    """One vector of a merge."""

    start: str
    """Id of the checkpoint that it begins at."""
    end: str
    """Id of the checkpoint that it leads to."""
    weight: float
    """Not 0; below 0 it unlearns."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much a change of weights is."""

    norm: float = 0.0
    """Euclidean."""
    changed: int = 0
    """Elements that differ."""
    elements: int = 0

    def __add__(self, other: "Extent") -> "Extent":
        return Extent(
            norm=hypot(self.norm, other.norm),
            changed=self.changed + other.changed,
            elements=self.elements + other.elements,
        )
