"""Tensors as raw bytes in safetensors files, without torch and without numpy.

The container is written here and not by the safetensors package, because that package's interface for
writing changed between releases that we support, and a checkpoint's id depends on these bytes.

Invariant: equal tensors give equal bytes. Tensors are sorted by the width of their type, the widest first (so
that all are aligned), and then by name; the file has no metadata and no time. Any reader of safetensors loads
the file. This module knows only the bytes of numbers, not their meaning.
"""

import json
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from corpus.aliases import Json
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
"""Bytes of one element, by the name that safetensors gives to its type."""
_HEADER_LIMIT = 100_000_000
"""Most bytes that safetensors allows in a header."""


@dataclass(frozen=True, kw_only=True)
class RawTensor:
    """One tensor as bytes: contiguous, little-endian, row-major."""

    dtype: str
    """The name that safetensors gives to the type: a key of `ITEM_BYTES`."""
    shape: tuple[int, ...]
    data: bytes | memoryview
    """The elements: exactly `ITEM_BYTES[dtype] * prod(shape)` bytes."""

    def __post_init__(self) -> None:
        if len(self.data) != ITEM_BYTES[self.dtype] * prod(self.shape):
            raise ValueError(
                f"{len(self.data)} bytes do not fill a {self.dtype} tensor of shape {self.shape}"
            )


Tensors = Mapping[str, RawTensor]
"""Tensors by name."""
TensorSpecs = Mapping[str, tuple[str, tuple[int, ...]]]
"""(type, shape) of every tensor, by name."""


def specs_of(tensors: Tensors) -> TensorSpecs:
    """Return (type, shape) of every tensor, by name."""
    return {name: (raw.dtype, tuple(raw.shape)) for name, raw in tensors.items()}


def file_order(specs: TensorSpecs) -> list[str]:
    """Return the names of the tensors in the order in which a file has them."""
    return sorted(specs, key=lambda name: (-ITEM_BYTES[specs[name][0]], name))


def head(specs: TensorSpecs) -> bytes:
    """Return the bytes of a file of such tensors before their data."""
    header: dict[str, object] = {}
    offset = 0
    for name in file_order(specs):
        dtype, shape = specs[name]
        end = offset + ITEM_BYTES[dtype] * prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)  # the format allows trailing spaces, and so the data are aligned
    return struct.pack("<Q", len(text)) + text


def pieces(tensors: Tensors) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a file of these tensors, one tensor at a time, without a copy of their data."""
    specs = specs_of(tensors)
    yield head(specs)
    for name in file_order(specs):
        yield tensors[name].data


def size(specs: TensorSpecs) -> int:
    """Return the size of a file of such tensors, in bytes."""
    return len(head(specs)) + sum(ITEM_BYTES[dtype] * prod(shape) for dtype, shape in specs.values())


def parse(path: Path) -> tuple[memoryview, dict[str, RawTensor]]:
    """Map a file into memory; return its bytes, and its tensors by name as views into these bytes.

    The mapping is private and copy-on-write: a change of a tensor never reaches the file.

    Raises:
        IntegrityFault: The file is not a safetensors file.
    """
    with path.open("rb") as stream:
        if path.stat().st_size < 8:
            raise IntegrityFault(f"{path} is cut short; restore it from a backup")
        whole = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY))
    return whole, _tensors(whole, path)


def _tensors(whole: memoryview, path: Path) -> dict[str, RawTensor]:
    """Return the tensors in the bytes of a file; raise IntegrityFault if its header does not fit them."""
    try:
        (length,) = struct.unpack("<Q", whole[:8])
        if length > min(_HEADER_LIMIT, len(whole) - 8):
            raise ValueError("the header is longer than the file")
        header = json.loads(bytes(whole[8 : 8 + length]))
        header.pop("__metadata__", None)
        data = whole[8 + length :]
        return {name: _tensor(entry, data) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise IntegrityFault(
            f"{path} is not a safetensors file ({fault}); restore it from a backup"
        ) from None


def _tensor(entry: Json, data: memoryview) -> RawTensor:
    """Return the tensor that an entry of the header describes, as a view into the data."""
    start, end = entry["data_offsets"]
    if not 0 <= start <= end <= len(data):
        raise ValueError("a tensor lies outside the file")
    return RawTensor(dtype=entry["dtype"], shape=tuple(entry["shape"]), data=data[start:end])
