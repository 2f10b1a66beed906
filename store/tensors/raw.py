"""Tensors as raw bytes in safetensors files, without torch and without numpy.

The container is written here and not by the safetensors package because its writing interface changed
between releases that we support, and a checkpoint's name is the digest of these bytes.

Invariant: equal tensors give equal bytes: names sorted, wider types first (so all are aligned), no metadata,
no time. Any reader of safetensors loads the result. Knows only the bytes of numbers, not what they mean.
"""

import json
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from corpus.errors import IntegrityFault

ITEM_BYTES = {
    "F64": 8,
    "I64": 8,
    "F32": 4,
    "I32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""Bytes of one element, by the format's own names of the types."""
_HEADER_LIMIT = 100_000_000
"""The format's own limit on its header, in bytes."""


@dataclass(frozen=True, kw_only=True)
class RawTensor:
    """One tensor: contiguous, little-endian, row-major."""

    dtype: str
    """The format's name of the type, as in `ITEM_BYTES`."""
    shape: tuple[int, ...]
    data: bytes | memoryview
    """Exactly `ITEM_BYTES[dtype] * prod(shape)` bytes."""

    def __post_init__(self) -> None:
        if len(self.data) != ITEM_BYTES[self.dtype] * prod(self.shape):
            raise ValueError(
                f"{len(self.data)} bytes do not fill a {self.dtype} tensor of shape {self.shape}"
            )


Kinds = Mapping[str, tuple[str, tuple[int, ...]]]
"""Type and shape of every tensor."""


def kinds_of(tensors: Mapping[str, RawTensor]) -> Kinds:
    """Type and shape of every tensor."""
    return {name: (raw.dtype, tuple(raw.shape)) for name, raw in tensors.items()}


def in_order(kinds: Kinds) -> list[str]:
    """The names in the order of the file."""
    return sorted(kinds, key=lambda name: (-ITEM_BYTES[kinds[name][0]], name))


def head(kinds: Kinds) -> bytes:
    """What stands before the data."""
    header: dict[str, object] = {}
    offset = 0
    for name in in_order(kinds):
        dtype, shape = kinds[name]
        end = offset + ITEM_BYTES[dtype] * prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)  # the format allows trailing spaces: the data start aligned
    return struct.pack("<Q", len(text)) + text


def pieces(tensors: Mapping[str, RawTensor]) -> Iterator[bytes | memoryview]:
    """The bytes of the file, piece by piece, so that a large one is never held twice."""
    kinds = kinds_of(tensors)
    yield head(kinds)
    for name in in_order(kinds):
        yield tensors[name].data


def size(kinds: Kinds) -> int:
    """Bytes that the file of such tensors takes."""
    return len(head(kinds)) + sum(ITEM_BYTES[dtype] * prod(shape) for dtype, shape in kinds.values())


def parse(path: Path) -> tuple[memoryview, dict[str, RawTensor]]:
    """The whole file as bytes, and its tensors as views into them.

    The mapping is private and copy-on-write: what a caller does to the views stays with the caller.
    """
    with path.open("rb") as stream:
        if path.stat().st_size < 8:
            raise IntegrityFault(f"{path} is cut short; restore it from a backup")
        whole = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY))
    return whole, _tensors(whole, path)


def _tensors(whole: memoryview, path: Path) -> dict[str, RawTensor]:
    """The tensors in the bytes of a file; a header that does not fit the bytes is a fault."""
    try:
        (length,) = struct.unpack("<Q", whole[:8])
        if length > min(_HEADER_LIMIT, len(whole) - 8):
            raise ValueError("the header is longer than the file")
        header = json.loads(bytes(whole[8 : 8 + length]))
        header.pop("__metadata__", None)
        data = whole[8 + length :]
        return {name: _tensor(entry, data) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise IntegrityFault(f"{path} is no safetensors file ({fault}); restore it from a backup") from None


def _tensor(entry: dict[str, Any], data: memoryview) -> RawTensor:
    """One tensor, by its entry in the header."""
    start, end = entry["data_offsets"]
    if not 0 <= start <= end <= len(data):
        raise ValueError("a tensor lies outside the file")
    return RawTensor(dtype=entry["dtype"], shape=tuple(entry["shape"]), data=data[start:end])
