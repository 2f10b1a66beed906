"""The cache of keys and values of all running rows, in pages that are allocated once.

A page holds the keys and values of LANES tokens of one row in one layer. A row takes all pages that it can
ever need when it begins and gives them back when it ends, so a running row never waits for memory.

Invariant: a page belongs to one row at most. Nothing is copied when rows come and go. Memory that no row
has used yet is not touched, so it costs nothing. This module knows nothing about models or sampling.
"""

import os
from collections.abc import Callable

import torch

from agents.model.embedded.kernel import LANES

SHARE_OF_MEMORY = 0.25
"""Share of the memory that is free when the server starts that the cache may grow to."""
MOST_ROWS = 320
"""Most rows that run at once: see `running.MOST_BATCH_ROWS`."""


class PagedCache:
    """Keys and values by layer, and the pages of each row."""

    def __init__(
        self,
        *,
        layers: int,
        kv_heads: int,
        dim: int,
        context: int,
        dtype: torch.dtype,
        free_bytes: Callable[[], int] | None = None,
    ) -> None:
        """Reserve the address space of the pages.

        Args:
            layers: Number of layers.
            kv_heads: Key heads in a layer.
            dim: Size of one head.
            context: Most tokens of a row; there are pages for one row of this length in any case.
            dtype: float32 or bfloat16.
            free_bytes: Returns the memory that is free; by default the system's own figure.
        """
        page_bytes = 2 * layers * kv_heads * dim * LANES * dtype.itemsize
        longest = -(-context // LANES)
        affordable = int(SHARE_OF_MEMORY * (free_bytes or _free_bytes)()) // page_bytes
        count = max(longest, min(affordable, MOST_ROWS * longest))
        self.keys = [torch.empty(count, kv_heads, dim, LANES, dtype=dtype) for _ in range(layers)]
        """For each layer `(pages, kv_heads, dim, LANES)`."""
        self.values = [torch.empty(count, kv_heads, LANES, dim, dtype=dtype) for _ in range(layers)]
        """For each layer `(pages, kv_heads, LANES, dim)`."""
        self.pages = torch.zeros(MOST_ROWS, longest, dtype=torch.int32)
        """The numbers of each row's pages, in order."""
        self._free_pages = list(range(count - 1, -1, -1))
        self._free_rows = list(range(MOST_ROWS - 1, -1, -1))
        self._taken: dict[int, list[int]] = {}

    def take(self, tokens: int, *, spare: bool = False) -> int | None:
        """Return the number of a new row with space for so many tokens; None if there is no space now.

        With `spare`, pages for one row of any length must stay free.
        """
        count = -(-tokens // LANES)
        needed = count + (self.pages.shape[1] if spare else 0)
        if not self._free_rows or needed > len(self._free_pages):
            return None
        row = self._free_rows.pop()
        taken = self._taken[row] = [self._free_pages.pop() for _ in range(count)]
        self.pages[row, :count] = torch.tensor(taken, dtype=torch.int32)
        return row

    def give_back(self, row: int) -> None:
        """Free the row and its pages."""
        self._free_pages += reversed(self._taken.pop(row))
        self._free_rows.append(row)


def _free_bytes() -> int:
    """Return the memory that new programs can use, in bytes."""
    try:
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
