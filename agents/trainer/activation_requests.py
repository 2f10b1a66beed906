"""What the trainer answers to `activations`: plain records, without torch.

Invariant: arrays are float32, row-major, in the order of the texts that were asked for. Knows no socket.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class HeadInputs:
    """What one layer's attention hands to its output projection at the last token of each text."""

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
    """By number of the layer, for those that were asked for and whose heads can be told apart."""
    skipped: Mapping[int, str] = field(default_factory=dict)
    """The others of them: what each has for attention, by its name."""

    def vector(self, text: int, layer: int) -> "array[float]":
        """(hidden,) after the layer with this number, for the text at this position."""
        start = (text * len(self.layers) + self.layers.index(layer)) * self.hidden * 4
        return array("f", self.data[start : start + self.hidden * 4])


def unpack(body: Mapping[str, Any], frames: Sequence[bytes], layers: Sequence[int]) -> Activations:
    """The answer in a reply's body and frames; `layers` are those that were asked for."""
    count, _, hidden = body["shape"]
    heads = {
        told["layer"]: HeadInputs(heads=told["shape"][1], head_dim=told["shape"][2], data=frame)
        for told, frame in zip(body["heads"], frames[1:], strict=True)
    }
    skipped = {told["layer"]: told["attention"] for told in body["skipped"]}
    return Activations(
        texts=count, layers=tuple(layers), hidden=hidden, data=frames[0], heads=heads, skipped=skipped
    )
