"""What the mapping says of itself, read without mapping it: for processes that hold no weights.

Invariant: reads one page of memory, never writes, and takes nothing that a mapping does not say for sure. The layout is
that of `agents/model/mapping.py`. Knows neither torch nor vLLM.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path

_LAYOUT = struct.Struct("=3q40x64s")
"""Magic, version, dirty; from byte 64 on, the checkpoint."""
_MAGIC = 0x4E53_4D41_5050_0001


@dataclass(frozen=True, kw_only=True)
class Header:
    """The words at the head of a mapping."""

    version: int
    """How often the weights have changed since the server started."""
    dirty: bool
    """Whether they may be those of no kept checkpoint."""
    holds: str
    """Id of the checkpoint that is there; "" in mid-update, and before the first."""


def read_header(mapping: Path) -> Header | None:
    """The header of the mapping at this path, as it is now; None while there is none."""
    try:
        descriptor = os.open(mapping, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        page = os.pread(descriptor, _LAYOUT.size, 0)
    finally:
        os.close(descriptor)
    if len(page) < _LAYOUT.size:
        return None
    magic, version, dirty, holds = _LAYOUT.unpack(page)
    if magic != _MAGIC:
        return None
    return Header(version=version, dirty=bool(dirty), holds=holds.rstrip(b"\0").decode())
