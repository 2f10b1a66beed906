"""What the trainer reads inside the served model: records and one interface, without torch.

Invariant: arrays are float32, row-major, in the order of the texts of the request. This module knows nothing
about the socket: the trainer's client is the implementation, and readouts depend on the interface alone.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agents.model.steering.wire import Direction


@dataclass(frozen=True, kw_only=True)
class HeadInputs:
    """The input of one layer's attention output projection at the last token of each text."""

    heads: int
    head_dim: int
    data: bytes = field(repr=False)
    """float32, (texts, heads, head_dim), row-major."""


@dataclass(frozen=True, kw_only=True)
class Activations:
    """The residual stream at the last token of each text."""

    texts: int
    layers: tuple[int, ...]
    hidden: int
    data: bytes = field(repr=False)
    """float32, (texts, len(layers), hidden), row-major."""
    heads: Mapping[int, HeadInputs] = field(default_factory=dict)
    """By layer number: the requested layers whose heads can be separated."""
    skipped: Mapping[int, str] = field(default_factory=dict)
    """By layer number: the other requested layers, with the name of their attention."""

    def vector(self, text: int, layer: int) -> "array[float]":
        """Return the residual stream (hidden,) after this layer for the text at this position."""
        start = (text * len(self.layers) + self.layers.index(layer)) * self.hidden * 4
        return array("f", self.data[start : start + self.hidden * 4])


@dataclass(frozen=True, kw_only=True)
class LogProb:
    """A continuation's log-probability, given its context."""

    total: float
    """Nats, summed over the tokens."""
    tokens: int


class HasVersion(Protocol):
    """Anything that carries the version of the shared weights."""

    @property
    def version(self) -> int:
        """A counter that changes with every write to the shared weights."""


class Internals(Protocol):
    """The part of the trainer's view of the served weights that readouts need."""

    async def activations(
        self, texts: Sequence[Sequence[int]], layers: Sequence[int], heads: Sequence[int] = ()
    ) -> Activations:
        """Return the residual stream and the heads' inputs at the last token of each text."""

    async def logprobs(
        self, items: Sequence[tuple[Sequence[int], Sequence[int]]], steer: Sequence[Direction] = ()
    ) -> Sequence[LogProb]:
        """Return the log-probability of each continuation, given its context, under this steering."""

    async def status(self) -> HasVersion:
        """Return the version of the shared weights, among other things."""
