"""What is added to the residual stream of some rows of a batch: the pass's side of steering.

Invariant: a row that is not steered gets zeros, so its numbers stay what they were to the last bit; a batch in
which nobody is steered has nothing to add at all. Knows neither concepts nor strengths.
"""

from collections.abc import Mapping, Sequence

import torch

Push = Mapping[int, torch.Tensor]
"""By number of a layer, from 0: what is added to each token of a row after it, `(hidden_size,)` float32."""


class Pushed:
    """The pushes of a batch's rows, by layer."""

    def __init__(self, pushes: Sequence[Push]) -> None:
        self._of: dict[int, torch.Tensor] = {}
        for layer in sorted({layer for push in pushes for layer in push}):
            like = next(push[layer] for push in pushes if layer in push)
            nothing = torch.zeros_like(like)
            self._of[layer] = torch.stack([push.get(layer, nothing) for push in pushes])

    def __bool__(self) -> bool:
        return bool(self._of)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers after which something is added."""
        return tuple(self._of)

    def rows(self, layer: int) -> torch.Tensor:
        """What each row gets after this layer, `(rows, hidden_size)` float32."""
        return self._of[layer]

    def after(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        """The stream of one token a row `(rows, hidden_size)` with what belongs there."""
        return x + self._of[layer] if layer in self._of else x

    def packed(self, layer: int, x: torch.Tensor, first: int, lengths: Sequence[int]) -> torch.Tensor:
        """The same for the packed tokens `(tokens, hidden_size)` of the rows from `first` on, of these lengths."""
        if layer not in self._of:
            return x
        own = self._of[layer][first : first + len(lengths)]
        return x + own.repeat_interleave(torch.tensor(lengths), dim=0)

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with these rows alone, int64 `(kept,)`."""
        self._of = {layer: values[rows] for layer, values in self._of.items()}
