"""The tensors that the forward pass computes with: the shared weights themselves, or copies in another type.

A matrix is read where it lies, unless passes compute in another type than the shared weights have; vectors
(norms and biases) are always float32. A copy is made again as soon as the version of the shared weights has
moved.

Invariant: no pass mixes two states of the weights, and none uses a copy of an older version than the
weights had when the pass began. Nothing is ever written to the shared weights. This module knows nothing
about models.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch


class WorkingWeights:
    """The tensors of one model, for one engine."""

    def __init__(
        self,
        dtype: torch.dtype | None = None,
        *,
        version: Callable[[], int] = lambda: 0,
        lock: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Name the source.

        Args:
            dtype: The type of the matrices; None for the type that they have.
            version: Returns the version of the shared weights, which every change moves.
            lock: Makes the lock that keeps changes away: see `RWLock.read_lock`.
        """
        self._dtype, self._version, self._lock = dtype, version, lock
        self._copies: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._direct = False
        self._copied = version()

    @property
    def dtype(self) -> torch.dtype | None:
        """The type of the matrices; None for the type that they have in the shared weights."""
        return self._dtype

    def of(self, parameter: torch.Tensor) -> torch.Tensor:
        """Return the tensor to compute with in place of this parameter; it stays the same tensor for good."""
        wanted = torch.float32 if parameter.dim() < 2 else self._dtype or parameter.dtype
        source = parameter.detach()
        if source.dtype == wanted and source.is_contiguous():
            self._direct = True
            return source
        if parameter.data_ptr() not in self._copies:
            self._copies[parameter.data_ptr()] = source, source.to(wanted, copy=True).contiguous()
        return self._copies[parameter.data_ptr()][1]

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold the weights still for one pass, after the copies are brought up to date."""
        version = self._version()
        if self._copies and not self._direct and version == self._copied:
            yield  # a pass on copies alone keeps no writer waiting
            return
        with self._lock():
            if version != self._copied:
                version = self._version()
                for source, copy in self._copies.values():
                    copy.copy_(source)
                self._copied = version
            if self._direct or not self._copies:
                yield
                return
        yield
