"""Random projections of gradients: the paper's Gaussian, and a count sketch that needs no matrix product.

A gradient G is projected on its smaller side, from n elements to r. If G is wide (rows <= columns, square
too), R = P G, and each column is a channel. If G is tall, R = G P^T, and each row is a channel.

Invariant: a projection is determined by its kind, seed, n, rank and number of refreshes. It is drawn on the
CPU, whatever the device of the weights. All matrices with the same n share a projection, and a checkpoint
does not store it: it is drawn again. Both kinds keep lengths on average: E |P x|^2 = |x|^2. This module knows
nothing about the optimizer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch

from agents.trainer.apollo.rounding import derive_seed

Kind = Literal["gaussian", "sketch"]
PANEL = 16
"""Rows of a dense projection that the kernel reads together."""


def is_matrix(tensor: torch.Tensor) -> bool:
    """Return whether a parameter's gradient is projected: it has two dimensions and is not empty."""
    return tensor.dim() == 2 and tensor.numel() > 0


def is_wide(shape: Sequence[int]) -> bool:
    """Return whether a matrix is wide or square, so that dimension 0 is the projected one."""
    return shape[0] <= shape[1]


@dataclass(frozen=True)
class Projection:
    """The projection P, float32, in the form of its kind."""

    kind: Kind
    rank: int
    values: torch.Tensor
    """gaussian: P, (rank, n), with entries from N(0, 1/rank); sketch: (n,), the sign of each element in its
    bucket."""

    @cached_property
    def alpha(self) -> float:
        """The default factor on the scale of the projected gradient: sqrt(n / rank)."""
        return math.sqrt(self.values.shape[-1] / self.rank)

    @cached_property
    def matrix(self) -> torch.Tensor:
        """P as a matrix, (rank, n)."""
        if self.kind == "gaussian":
            return self.values
        n = self.values.shape[0]
        matrix = torch.zeros(self.rank, n, device=self.values.device)
        matrix[torch.arange(n) % self.rank, torch.arange(n)] = self.values  # bucket k mod r
        return matrix

    @cached_property
    def coefficients(self) -> torch.Tensor | None:
        """The sketch's signs, (n,): element k goes only to row k mod rank of R. None for a dense P."""
        if self.kind == "sketch":
            return self.values
        return self.values[0].contiguous() if self.rank == 1 else None

    @cached_property
    def panels(self) -> torch.Tensor:
        """P cut into panels of rows for the kernel, (ceil(rank / PANEL), n, PANEL), padded with zeros."""
        filled = torch.nn.functional.pad(self.values, (0, 0, 0, -self.rank % PANEL))
        return filled.view(-1, PANEL, self.values.shape[1]).transpose(1, 2).contiguous()

    def project(self, gradients: torch.Tensor) -> torch.Tensor:
        """Return R for k matrices (k, rows, cols): (k, rank, cols) if wide, (k, rows, rank) if tall."""
        wide = is_wide(gradients.shape[1:])
        if self.kind == "gaussian":
            return self.values @ gradients if wide else gradients @ self.values.T
        signed = gradients * (self.values[:, None] if wide else self.values)
        missing = -self.values.shape[0] % self.rank
        if wide:
            filled = torch.nn.functional.pad(signed, (0, 0, 0, missing))
            return filled.view(filled.shape[0], -1, self.rank, filled.shape[2]).sum(1)
        filled = torch.nn.functional.pad(signed, (0, missing))
        return filled.view(*filled.shape[:2], -1, self.rank).sum(2)


def draw(kind: Kind, rank: int, n: int, *, seed: int, refresh: int, device: torch.device) -> Projection:
    """Return the random projection of n elements to `rank`; `refresh`: its number in the order of draws."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "projection", kind, rank, n, refresh))
    if kind == "gaussian":
        values = torch.randn(rank, n, generator=generator) / math.sqrt(rank)
    else:
        values = torch.randint(0, 2, (n,), generator=generator, dtype=torch.float32) * 2 - 1
    return Projection(kind, rank, values.to(device))
