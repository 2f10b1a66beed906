"""The interface to the inside of the served model: activations and log-probabilities, without torch.

The trainer computes them, its client implements `Internals`, and readouts depend on this interface alone.
Invariant: arrays are float32, row-major, in the order of the texts of the request. This module knows nothing
about the trainer's socket.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agents.model.steering.wire import Direction


@dataclass(frozen=True, kw_only=True)
class HeadInputs:
    """The input of the attention's output projection in one layer, at the last token of each text."""

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
    """The heads' inputs by layer number, for each requested layer whose heads can be separated."""
    skipped: Mapping[int, str] = field(default_factory=dict)
    """The name of the attention by layer number, for each requested layer whose heads cannot be separated."""

    def vector(self, text: int, layer: int) -> "array[float]":
        """Return the residual stream `(hidden,)` after `layer`, for the text at position `text`."""
        start = (text * len(self.layers) + self.layers.index(layer)) * self.hidden * 4
        return array("f", self.data[start : start + self.hidden * 4])


@dataclass(frozen=True, kw_only=True)
class LogProb:
    """A continuation's log-probability, given its context."""

    total: float
    """In nats, summed over the continuation's tokens."""
    tokens: int
    """Number of the continuation's tokens."""


class HasVersion(Protocol):
    """A record that carries the version of the shared weights."""

    @property
    def version(self) -> int:
        """A counter that changes with every write to the shared weights."""


class Internals(Protocol):
    """The requests to the trainer that readouts need."""

    async def activations(
        self, texts: Sequence[Sequence[int]], layers: Sequence[int], heads: Sequence[int] = ()
    ) -> Activations:
        """Return the residual stream and the heads' inputs at the last token of each text.

        Args:
            texts: The tokens of each text.
            layers: Numbers of the layers, from 0, after which the residual stream is returned.
            heads: Numbers of the layers whose heads' inputs are returned.
        """

    async def logprobs(
        self,
        items: Sequence[tuple[Sequence[int], Sequence[int]]],
        steer: Sequence[Direction] = (),
        *,
        exact: bool = True,
    ) -> Sequence[LogProb]:
        """Return the log-probability of each continuation, given its context.

        Args:
            items: Pairs of the context's tokens and the continuation's tokens.
            steer: Directions that are added to the residual stream; empty for no steering.
            exact: Whether products have the weights' type; a large model reads faster if they need not.
        """

    async def status(self) -> HasVersion:
        """Return the trainer's status, which includes the version of the shared weights."""
